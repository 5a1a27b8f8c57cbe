//! Checks every response of the tests against the OpenAPI document.

use std::{cell::RefCell, sync::LazyLock};

use boon::{Compiler, Schemas};
use serde_json::Value;

use crate::fixture::Response;

/// The OpenAPI document, parsed from its source file.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../openapi.json")).unwrap());

/// The URL of the document. Its schemas refer to one another by this URL.
const NAME: &str = "file:///openapi.json";

thread_local! {
    static COMPILED: RefCell<(Compiler, Schemas)> = {
        let mut compiler = Compiler::new();
        compiler.add_resource(NAME, DOCUMENT.clone()).unwrap();
        RefCell::new((compiler, Schemas::new()))
    };
}

const PROBLEM: &str = "/components/schemas/Problem";

/// Returns an error if `response` is not as documented for a request with the request line `line`.
pub(crate) fn violation(line: &str, response: &Response) -> Result<(), String> {
    let (method, target) = line.split_once(' ').unwrap();
    let path = target.split('?').next().unwrap();
    let status = response.status;
    let Some(item) = follow(format!("/paths/{}", escape(path))) else {
        return undocumented(response, &[(204, "OPTIONS"), (404, method)], method);
    };
    let operation = match method {
        "HEAD" => format!("{item}/get"),
        method => format!("{item}/{}", method.to_lowercase()),
    };
    if DOCUMENT.pointer(&operation).is_none() {
        return undocumented(response, &[(204, "OPTIONS"), (405, method)], method);
    }
    let documented_at = follow(format!("{operation}/responses/{status}"))
        .ok_or_else(|| format!("{status} is not listed"))?;
    let documented = &DOCUMENT.pointer(&documented_at).unwrap();
    for name in documented["headers"]
        .as_object()
        .into_iter()
        .flat_map(|h| h.keys())
    {
        let header = follow(format!("{documented_at}/headers/{name}")).unwrap();
        let sent = response
            .header(&name.to_lowercase())
            .ok_or_else(|| format!("no {name}"))?;
        let value = serde_json::from_str(sent).unwrap_or_else(|_| Value::from(sent));
        matches(&format!("{header}/schema"), &value)?;
    }
    let kind = response.header("content-type").ok_or("no content type")?;
    if documented["content"].get(kind).is_none() {
        return Err(format!("{kind} is not listed"));
    }
    if method == "HEAD" {
        return Ok(());
    }
    matches(
        &format!("{documented_at}/content/{}/schema", escape(kind)),
        &response.body,
    )
}

/// Checks a value against the schema at a JSON pointer of the document.
pub(crate) fn matches(pointer: &str, value: &Value) -> Result<(), String> {
    COMPILED.with_borrow_mut(|(compiler, schemas)| {
        let schema = format!("{NAME}#{pointer}");
        let schema = compiler.compile(&schema, schemas).unwrap();
        let checked = schemas.validate(value, schema);
        checked.map_err(|error| error.to_string())
    })
}

/// Checks the response of a method or path that the document does not list: the status must be allowed, and the body
/// must be empty or a problem.
fn undocumented(response: &Response, allowed: &[(u16, &str)], method: &str) -> Result<(), String> {
    if !allowed.contains(&(response.status, method)) {
        return Err(format!("{} where nothing is documented", response.status));
    }
    match response.body {
        Value::Null => Ok(()),
        ref body => matches(PROBLEM, body),
    }
}

/// Returns the JSON pointer after all references are resolved; `None` if the document has no value there.
pub(crate) fn follow(mut pointer: String) -> Option<String> {
    loop {
        match DOCUMENT.pointer(&pointer)?["$ref"].as_str() {
            Some(other) => pointer = other.strip_prefix('#').unwrap().to_owned(),
            None => return Some(pointer),
        }
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
