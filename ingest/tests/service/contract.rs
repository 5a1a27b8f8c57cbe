//! The OpenAPI document, held against every answer that a test gets.

use std::{cell::RefCell, sync::LazyLock};

use boon::{Compiler, Schemas};
use serde_json::Value;

use crate::stage::Answer;

/// The document as it stands in the source.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../openapi.json")).unwrap());

/// Under this name its schemas refer to one another.
const NAME: &str = "file:///openapi.json";

thread_local! {
    static COMPILED: RefCell<(Compiler, Schemas)> = {
        let mut compiler = Compiler::new();
        compiler.add_resource(NAME, DOCUMENT.clone()).unwrap();
        RefCell::new((compiler, Schemas::new()))
    };
}

const PROBLEM: &str = "/components/schemas/Problem";

/// What in `answer`, given to a request of this line, is not as documented.
pub(crate) fn violation(line: &str, answer: &Answer) -> Result<(), String> {
    let (method, target) = line.split_once(' ').unwrap();
    let path = target.split('?').next().unwrap();
    let status = answer.status;
    let Some(item) = follow(format!("/paths/{}", escape(path))) else {
        return undocumented(answer, &[(204, "OPTIONS"), (404, method)], method);
    };
    let operation = match method {
        "HEAD" => format!("{item}/get"),
        method => format!("{item}/{}", method.to_lowercase()),
    };
    if DOCUMENT.pointer(&operation).is_none() {
        return undocumented(answer, &[(204, "OPTIONS"), (405, method)], method);
    }
    let response = follow(format!("{operation}/responses/{status}"))
        .ok_or_else(|| format!("{status} is not listed"))?;
    let documented = &DOCUMENT.pointer(&response).unwrap();
    for name in documented["headers"]
        .as_object()
        .into_iter()
        .flat_map(|h| h.keys())
    {
        let header = follow(format!("{response}/headers/{name}")).unwrap();
        let sent = answer
            .header(&name.to_lowercase())
            .ok_or_else(|| format!("no {name}"))?;
        let value = serde_json::from_str(sent).unwrap_or_else(|_| Value::from(sent));
        matches(&format!("{header}/schema"), &value)?;
    }
    let kind = answer.header("content-type").ok_or("no content type")?;
    if documented["content"].get(kind).is_none() {
        return Err(format!("{kind} is not listed"));
    }
    if method == "HEAD" {
        return Ok(());
    }
    matches(
        &format!("{response}/content/{}/schema", escape(kind)),
        &answer.body,
    )
}

/// Whether a value matches the schema at a place of the document.
pub(crate) fn matches(pointer: &str, value: &Value) -> Result<(), String> {
    COMPILED.with_borrow_mut(|(compiler, schemas)| {
        let schema = format!("{NAME}#{pointer}");
        let schema = compiler.compile(&schema, schemas).unwrap();
        let checked = schemas.validate(value, schema);
        checked.map_err(|error| error.to_string())
    })
}

/// Methods and paths that the document leaves out are answered by their own statuses, with a problem.
fn undocumented(answer: &Answer, allowed: &[(u16, &str)], method: &str) -> Result<(), String> {
    if !allowed.contains(&(answer.status, method)) {
        return Err(format!("{} where nothing is documented", answer.status));
    }
    match answer.body {
        Value::Null => Ok(()),
        ref body => matches(PROBLEM, body),
    }
}

/// The place that a place refers to, or itself; `None` if there is nothing.
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
