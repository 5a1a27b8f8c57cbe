//! The seam between the server and the services.

use std::{net::SocketAddr, sync::Arc};

use hyper::body::Incoming;

use crate::Body;

/// A request whose body is still to be read.
pub type Request = hyper::Request<Incoming>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// Answers the requests for some paths.
///
/// Two handlers on one address are their tuple: the first that knows the path answers.
///
/// ```
/// # use std::{future::Future, net::SocketAddr};
/// # use emostream_http::{Body, Handler, Request, Response};
/// struct Greeting;
///
/// impl Handler for Greeting {
///     fn knows(&self, path: &str) -> bool {
///         path == "/hello"
///     }
///     async fn handle(&self, _request: Request, peer: SocketAddr) -> Response {
///         Response::new(Body::from(format!("hello, {peer}\n")))
///     }
/// }
/// # fn is_handler(_: impl Handler) {}
/// # is_handler((Greeting, Greeting));
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Whether requests for this path are its own; which methods it takes is its own business.
    fn knows(&self, path: &str) -> bool;

    /// Answers a request for a path it knows. `peer` is the other end of the socket.
    fn handle(&self, request: Request, peer: SocketAddr) -> impl Future<Output = Response> + Send;
}

impl<A: Handler, B: Handler> Handler for (A, B) {
    fn knows(&self, path: &str) -> bool {
        self.0.knows(path) || self.1.knows(path)
    }

    async fn handle(&self, request: Request, peer: SocketAddr) -> Response {
        if self.0.knows(request.uri().path()) {
            self.0.handle(request, peer).await
        } else {
            self.1.handle(request, peer).await
        }
    }
}

impl<H: Handler> Handler for Arc<H> {
    fn knows(&self, path: &str) -> bool {
        (**self).knows(path)
    }

    fn handle(&self, request: Request, peer: SocketAddr) -> impl Future<Output = Response> + Send {
        (**self).handle(request, peer)
    }
}
