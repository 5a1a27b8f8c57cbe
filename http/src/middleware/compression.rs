//! Compression of responses whose whole body is in memory: pages and JSON.
//!
//! Streams are never compressed. tower-http's layer is not used: it compresses while the client reads, so a client that
//! keeps the flow-control windows of its HTTP/2 streams at 0 would hold a brotli encoder of megabytes for each of its
//! 100 concurrent requests. Here only the compressed bytes wait for the client.

use std::io::Write;

use axum::{
    Router,
    middleware::{Next, from_fn},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap,
    body::Body as _,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY},
};

use crate::{Body, Request, Response};

/// Minimum bytes of JSON that is compressed: a shorter response fits one packet, compressed or not.
const MIN_BYTES: u64 = 1 << 10;

/// Window of brotli as a power of 2 (256 KiB): no file that is served is longer.
const BROTLI_WINDOW: i32 = 18;

/// A content coding that browsers accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932; browsers offer it over TLS and on localhost.
    Brotli,
    /// RFC 1952.
    Gzip,
}

/// How much CPU a compression may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Much: a file is compressed once and sent many times.
    Once,
    /// Little: each response is compressed.
    Each,
}

impl Coding {
    /// All codings, the best first.
    pub const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// Returns the best coding that the sender of a request accepts (RFC 9110, 12.5.3).
    pub fn accepted(request: &HeaderMap) -> Option<Self> {
        let ranges: Vec<(&str, bool)> = request
            .get_all(ACCEPT_ENCODING)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .map(range)
            .collect();
        let accepts = |name: &str| {
            let named = |name: &str| ranges.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            named(name)
                .or_else(|| named("*"))
                .is_some_and(|range| range.1)
        };
        let mut codings = Self::ALL.into_iter();
        codings.find(|coding| accepts(coding.name()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Compresses `bytes`.
    pub fn encode(self, bytes: &[u8], effort: Effort) -> Bytes {
        let mut encoded = Vec::with_capacity(bytes.len() / 2);
        let written = match self {
            Self::Brotli => {
                let quality = match effort {
                    Effort::Once => 9,
                    Effort::Each => 2,
                };
                let params = brotli::enc::BrotliEncoderParams {
                    quality,
                    lgwin: BROTLI_WINDOW,
                    size_hint: bytes.len(),
                    ..Default::default()
                };
                brotli::BrotliCompress(&mut &*bytes, &mut encoded, &params).map(drop)
            }
            Self::Gzip => {
                let level = match effort {
                    Effort::Once => Compression::best(),
                    Effort::Each => Compression::fast(),
                };
                let mut encoder = GzEncoder::new(&mut encoded, level);
                encoder.write_all(bytes).and_then(|()| encoder.try_finish())
            }
        };
        debug_assert!(written.is_ok(), "a Vec takes every write");
        encoded.into()
    }

    /// Sets the headers of a response that is compressed by `coding`. `None` for an uncompressed one: it needs `Vary`
    /// too, or a cache would send it to all clients.
    pub fn mark(coding: Option<Self>, response: &mut HeaderMap) {
        response.append(VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(coding) = coding {
            response.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
    }
}

/// Parses an element of `Accept-Encoding`: the coding's name, and whether it is acceptable (a weight of 0 excludes it).
fn range(text: &str) -> (&str, bool) {
    let (name, weight) = text.split_once(';').unwrap_or((text, ""));
    let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start();
    let weight = weight.strip_prefix('=').map(|weight| weight.trim().parse());
    (
        name.trim(),
        weight.is_none_or(|weight| weight != Ok(0.0_f32)),
    )
}

/// Compresses the JSON that the routes of `router` return, for clients that accept it.
pub fn compress_json(router: Router) -> Router {
    router.route_layer(from_fn(async |request: Request, next: Next| {
        let coding = Coding::accepted(request.headers());
        compressed(next.run(request).await, coding).await
    }))
}

async fn compressed(mut response: Response, coding: Option<Coding>) -> Response {
    let json = response.headers().get(CONTENT_TYPE);
    let json = json.is_some_and(|kind| kind == "application/json");
    let bytes = response.body().size_hint().exact();
    if !json || bytes.is_none_or(|bytes| bytes < MIN_BYTES) {
        return response;
    }
    Coding::mark(coding, response.headers_mut());
    let Some(coding) = coding else {
        return response;
    };
    let (mut parts, body) = response.into_parts();
    // A body of known length is in memory, so this does not wait.
    let body = body.collect().await.map(|body| body.to_bytes());
    parts.headers.remove(CONTENT_LENGTH);
    let body = coding.encode(&body.unwrap_or_default(), Effort::Each);
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use std::io::Read;

    #[test]
    fn the_best_coding_that_is_accepted_is_chosen() {
        use Coding::{Brotli, Gzip};
        for (accepted, coding) in [
            ("", None),
            ("identity", None),
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("gzip, deflate", Some(Gzip)),
            ("GZIP", Some(Gzip)),
            ("br;q=0, gzip;q=0.5", Some(Gzip)),
            ("br; q = 0.000", None),
            ("*", Some(Brotli)),
            ("br;q=0, *", Some(Gzip)),
            ("*;q=0", None),
            ("x-gzip, brotli", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, accepted.parse().unwrap())]);
            assert_eq!(Coding::accepted(&headers), coding, "{accepted}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_compressed_is_read_back_as_it_was() {
        let text = "{\"room\":\"match-7\",\"total\":10}\n".repeat(10_000);
        for effort in [Effort::Once, Effort::Each] {
            for coding in Coding::ALL {
                let packed = coding.encode(text.as_bytes(), effort);
                assert!(packed.len() < text.len() / 20, "{coding:?}, {effort:?}");
                let mut read = String::new();
                match coding {
                    Coding::Brotli => brotli::Decompressor::new(&packed[..], 4096)
                        .read_to_string(&mut read)
                        .unwrap(),
                    Coding::Gzip => flate2::read::GzDecoder::new(&packed[..])
                        .read_to_string(&mut read)
                        .unwrap(),
                };
                assert_eq!(read, text);
            }
        }
    }
}
