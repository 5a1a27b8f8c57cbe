//! Asks a server now and then, over a few connections.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Method, Uri};

use super::{
    Endpoint,
    connections::{Answer, Connections, Question},
};

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Poster {
    connections: Arc<Connections>,
    endpoint: Endpoint,
}

impl Poster {
    /// Holds at most `few` connections; gives up on an answer after `timeout`.
    pub(crate) fn new(endpoint: Endpoint, few: usize, timeout: Duration) -> Self {
        Self {
            connections: Arc::new(Connections::new(endpoint.clone(), few, timeout)),
            endpoint,
        }
    }

    /// The user that its reactions are of: the token's, or else `usual`.
    pub(crate) fn user<'a>(&'a self, usual: &'a str) -> &'a str {
        self.endpoint.token().map_or(usual, |token| &token.user)
    }

    /// Posts JSON.
    pub(crate) async fn post(&self, path: &'static str, body: Bytes) -> Answer {
        self.ask(Method::POST, path, body).await
    }

    /// Gets.
    pub(crate) async fn get(&self, path: &'static str) -> Answer {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn ask(&self, method: Method, path: &'static str, body: Bytes) -> Answer {
        let question = Question {
            method,
            path: Uri::from_static(path),
            body,
            token: self.endpoint.token().cloned(),
        };
        let place = self.connections.place().await;
        self.connections.ask(place, question).await.0
    }
}
