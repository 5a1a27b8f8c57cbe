//! The baseline of `ingest`, named *floor* in its table: a server with hyper alone, which parses the JSON and drops it.

use std::convert::Infallible;

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct Flags {}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed and dropped")]
struct Reaction<'a> {
    #[serde(borrow)]
    user_id: &'a str,
    #[serde(borrow)]
    emoji_type: &'a str,
    #[serde(borrow)]
    room: &'a str,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body<'a> {
    #[serde(borrow)]
    Many(Vec<Reaction<'a>>),
    #[serde(borrow)]
    #[expect(dead_code, reason = "parsed and dropped")]
    One(Reaction<'a>),
}

/// Serves until the process is killed.
pub(crate) fn run(_flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(respond));
                // The error of a connection is ignored, since the client reports it.
                let _ = connection.await;
            });
        }
    })
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let read = body.map(|body| count(&body.to_bytes()));
    let (status, text) = match read {
        Ok(Some(count)) => (StatusCode::ACCEPTED, format!(r#"{{"accepted":{count}}}"#)),
        Ok(None) | Err(_) => (StatusCode::BAD_REQUEST, String::new()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

fn count(body: &[u8]) -> Option<usize> {
    match serde_json::from_slice(body).ok()? {
        Body::Many(reactions) => Some(reactions.len()),
        Body::One(_) => Some(1),
    }
}
