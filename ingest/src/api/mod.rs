//! The HTTP interface, in the order of a request: its head, its body, what becomes of it, the response.

pub(crate) mod body;
pub(crate) mod handler;
pub(crate) mod openapi;
pub(crate) mod request;
pub(crate) mod response;
