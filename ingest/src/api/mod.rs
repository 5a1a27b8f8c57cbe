//! The HTTP API: the head and the body of a request, its handler, the response, and the OpenAPI document.

pub(crate) mod body;
pub(crate) mod handler;
pub(crate) mod openapi;
pub(crate) mod request;
pub(crate) mod response;
