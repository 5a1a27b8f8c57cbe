//! Fetches a key set with one GET request on a new connection. Redirects are not followed.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    ClientTls, connect,
    middleware::auth::{jwks_url::JwksUrl, key_set::MAX_SET_BYTES, refresh::max_age},
};

/// Maximum time of a fetch, from the DNS lookup to the end of the response. It is short, since requests whose tokens
/// have unknown keys wait for the fetch.
pub(super) const FETCH_TIME: Duration = Duration::from_secs(5);

/// Maximum bytes of the response's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Maximum characters of a redirect's target that an error message repeats.
const REPEATED_CHARS: usize = 200;

/// Fetches the key set of one URL.
#[derive(Debug)]
pub(super) struct JwksClient {
    url: JwksUrl,
    /// The trusted certificates for the server of an `https://` URL. `None` for `http://`.
    trust: Option<ClientTls>,
}

/// The body of a response, which is not parsed yet.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) text: Bytes,
    /// Time for which the key set is fresh (`max-age`), if the server sends it.
    pub(super) max_age: Option<Duration>,
}

/// The reason why a fetch has failed. A message is the second part of a sentence that begins with "the key set" and the
/// URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("is not reachable: {0}")]
    Unreachable(io::Error),
    #[error("did not respond within {FETCH_TIME:?}")]
    Timeout,
    #[error("sent no valid response: {0}")]
    Http(String),
    #[error("redirects to {0}, and redirects are not followed; set --jwks-url to that URL")]
    Redirect(String),
    #[error("responded with status {0}")]
    Status(StatusCode),
    #[error("responded with more than {MAX_SET_BYTES} bytes")]
    Long,
}

impl JwksClient {
    /// Creates a client. An `https://` URL requires `trust`.
    pub(super) fn new(url: JwksUrl, trust: Option<ClientTls>) -> Self {
        Self { url, trust }
    }

    pub(super) fn url(&self) -> &JwksUrl {
        &self.url
    }

    /// Fetches the key set of the URL.
    pub(super) async fn fetch(&self) -> Result<Fetched, FetchError> {
        let fetched = timeout(FETCH_TIME, self.exchange()).await;
        fetched.unwrap_or(Err(FetchError::Timeout))
    }

    async fn exchange(&self) -> Result<Fetched, FetchError> {
        let stream = connect(self.url.host(), self.url.port(), self.trust.as_ref()).await;
        let stream = stream.map_err(FetchError::Unreachable)?;
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_HEAD_BYTES);
        let handshake = http.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| describe(&error))?;
        // A `JoinSet` aborts its tasks when it is dropped, so the task of the connection ends with the fetch.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(self.request()?).await;
        let (head, body) = response.map_err(|error| describe(&error))?.into_parts();
        if head.status.is_redirection() {
            let target = header(&head.headers, LOCATION).unwrap_or("another URL");
            let target = target.chars().take(REPEATED_CHARS).collect();
            return Err(FetchError::Redirect(target));
        }
        if head.status != StatusCode::OK {
            return Err(FetchError::Status(head.status));
        }
        let body = Limited::new(body, MAX_SET_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => FetchError::Long,
            false => describe(&*error),
        })?;
        Ok(Fetched {
            text: body.to_bytes(),
            max_age: header(&head.headers, CACHE_CONTROL).and_then(max_age),
        })
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, FetchError> {
        let request = Request::get(self.url.path_and_query())
            .header(HOST, self.url.authority())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("emostream/", env!("CARGO_PKG_VERSION")));
        let request = request.body(Empty::new());
        request.map_err(|error| FetchError::Http(error.to_string()))
    }
}

fn header(headers: &HeaderMap, name: hyper::header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the innermost cause of an error, since this cause names the reason.
fn describe(error: &(dyn Error + 'static)) -> FetchError {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    FetchError::Http(cause.to_string())
}
