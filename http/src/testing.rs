//! Test fixtures: compares the responses of a service with an OpenAPI document.

use std::cell::RefCell;

use boon::{Compiler, Schemas};
use serde_json::Value;

/// The URL of the document. Its schemas refer to one another by this URL.
const NAME: &str = "file:///openapi.json";

const PROBLEM: &str = "/components/schemas/Problem";

/// An OpenAPI document, with which tests compare responses.
///
/// In the document, objects may have further fields, since a later version may add fields. In this comparison, a field
/// that the document does not list is an error. Only an object whose `additionalProperties` is given in the document
/// stays as it is.
pub struct Contract {
    document: Value,
    compiled: RefCell<(Compiler, Schemas)>,
}

impl Contract {
    /// Parses the document.
    ///
    /// # Panics
    /// If the document is not JSON.
    pub fn new(document: &str) -> Self {
        let mut document = serde_json::from_str(document).expect("the document is JSON");
        close(&mut document);
        let mut compiler = Compiler::new();
        let added = compiler.add_resource(NAME, document.clone());
        added.expect("the document is a resource of schemas");
        Self {
            document,
            compiled: RefCell::new((compiler, Schemas::new())),
        }
    }

    /// Returns an error if a response differs from the documented response to the request line `line` (`GET /path`).
    /// `header` returns the value of a header, whose name is in lower case. `body` is the parsed body if it is JSON,
    /// the text of another body, or `null` if there is none.
    pub fn violation<'r>(
        &self,
        line: &str,
        status: u16,
        header: impl Fn(&str) -> Option<&'r str>,
        body: &Value,
    ) -> Result<(), String> {
        let (method, target) = line.split_once(' ').ok_or("not a request line")?;
        let path = target.split('?').next().unwrap_or_default();
        let Some(item) = self.item(path) else {
            return self.undocumented(&[(204, "OPTIONS"), (404, method)], method, status, body);
        };
        let operation = match method {
            "HEAD" => format!("{item}/get"),
            method => format!("{item}/{}", method.to_lowercase()),
        };
        if self.document.pointer(&operation).is_none() {
            return self.undocumented(&[(204, "OPTIONS"), (405, method)], method, status, body);
        }
        let response = self
            .follow(format!("{operation}/responses/{status}"))
            .ok_or_else(|| format!("{status} is not listed"))?;
        let documented = self.document.pointer(&response).unwrap_or(&Value::Null);
        for name in names(&documented["headers"]) {
            let schema = self.follow(format!("{response}/headers/{name}"));
            let schema = schema.ok_or_else(|| format!("{name} is not described"))?;
            let sent = header(&name.to_lowercase()).ok_or_else(|| format!("no {name}"))?;
            let value = serde_json::from_str(sent).unwrap_or_else(|_| Value::from(sent));
            self.matches(&format!("{schema}/schema"), &value)?;
        }
        if documented["content"].is_null() {
            return match body {
                Value::Null => Ok(()),
                _ => Err("a body is not listed".to_owned()),
            };
        }
        let kind = header("content-type").ok_or("no content type")?;
        if documented["content"].get(kind).is_none() {
            return Err(format!("{kind} is not listed"));
        }
        if method == "HEAD" {
            return Ok(());
        }
        self.matches(&format!("{response}/content/{}/schema", escape(kind)), body)
    }

    /// Checks a value against the schema at a JSON pointer of the document.
    ///
    /// # Panics
    /// If there is no valid schema.
    pub fn matches(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let (compiler, schemas) = &mut *self.compiled.borrow_mut();
        let schema = compiler.compile(&format!("{NAME}#{pointer}"), schemas);
        let checked = schemas.validate(value, schema.expect("a valid schema"));
        checked.map_err(|error| error.to_string())
    }

    /// Returns the JSON pointer after all references are resolved; `None` if the document has no value there.
    pub fn follow(&self, mut pointer: String) -> Option<String> {
        loop {
            match self.document.pointer(&pointer)?["$ref"].as_str() {
                Some(other) => pointer = other.strip_prefix('#')?.to_owned(),
                None => return Some(pointer),
            }
        }
    }

    /// Returns the pointer of the path item whose template fits `path`.
    fn item(&self, path: &str) -> Option<String> {
        let mut templates = names(&self.document["paths"]);
        let template = templates.find(|template| fits(template, path))?;
        self.follow(format!("/paths/{}", escape(template)))
    }

    /// Checks the response of a method or path that the document does not list: the status must be allowed, and the
    /// body must be empty or a problem.
    fn undocumented(
        &self,
        allowed: &[(u16, &str)],
        method: &str,
        status: u16,
        body: &Value,
    ) -> Result<(), String> {
        if !allowed.contains(&(status, method)) {
            return Err(format!("{status} where nothing is documented"));
        }
        match body {
            Value::Null => Ok(()),
            body => self.matches(PROBLEM, body),
        }
    }
}

/// Returns the names of the members of an object.
fn names(value: &Value) -> impl Iterator<Item = &String> {
    value
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys())
}

/// Whether a path has the form of a template such as `/v1/rooms/{room}`.
fn fits(template: &str, path: &str) -> bool {
    let same = |(expected, found): (&str, &str)| expected.starts_with('{') || expected == found;
    template.split('/').count() == path.split('/').count()
        && template.split('/').zip(path.split('/')).all(same)
}

/// Changes the schema of every object that lists its properties, so that further properties are an error.
fn close(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("properties").is_some_and(Value::is_object) {
                members
                    .entry("additionalProperties")
                    .or_insert(false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
