//! Compression of JSON responses, and of the files of the web pages. Each file is compressed once, when the service
//! starts, by [`Coding::encode`]. A JSON response is compressed each time it is sent, by [`compress_json`]:
//!
//! ```text
//!  JSON ── below 1 KiB ──────────────────────▶ as it is
//!   ├───── no permit is free ────────────────▶ as it is
//!   ├───── up to 64 KiB ─ compressed here ───▶ compressed
//!   └───── longer ─────── spawn_blocking ────▶ compressed
//! ```
//!
//! Each compression needs a permit. There are half as many permits as cores, and at least one. Streams are never
//! compressed.
//!
//! tower-http's layer is not used. This layer compresses while the client reads, so a client that keeps the
//! flow-control windows of its HTTP/2 streams at 0 would hold a brotli encoder for each of its 100 concurrent requests
//! (`bench/README.md` lists its size). Here, a response is compressed before it is sent, so only the compressed bytes
//! wait for the client. tower-http's layer also compresses on the runtime's threads, without a limit on the number of
//! responses that are compressed at once.
//!
//! Invariant: at most half of the cores (at least one) compress responses, so other requests have the rest of the
//! cores.

use std::{io::Write, sync::Arc, thread::available_parallelism};

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

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{Body, Request, Response};

/// Minimum bytes of a JSON response that is compressed. A shorter one needs a single packet with or without
/// compression.
const MIN_BYTES: u64 = 1 << 10;

/// Maximum bytes that are compressed on a runtime thread (`bench/README.md` lists the times). Longer room lists and
/// histories are compressed on another thread, since they would delay the other connections of the runtime thread.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// Brotli's window size as an exponent of 2 (256 KiB). A larger window would not help, since every served file is
/// shorter.
const BROTLI_WINDOW: i32 = 18;

/// A content coding that browsers accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Brotli (RFC 7932). Browsers accept it only over TLS and on localhost.
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

/// CPU time that a compression may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Much CPU time, for a file that is compressed once and sent many times.
    Once,
    /// Little CPU time, for a response that is compressed each time it is sent.
    Each,
}

impl Coding {
    /// All codings, the best first.
    pub const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// Returns the coding with the highest weight in a request's `Accept-Encoding` (RFC 9110, 12.5.3), and the best one
    /// if several have that weight. Returns `None` if the client accepts no coding or prefers `identity`.
    pub fn accepted(request: &HeaderMap) -> Option<Self> {
        let weights: Vec<(&str, f32)> = request
            .get_all(ACCEPT_ENCODING)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .map(weight)
            .collect();
        let named = |name: &str| {
            let named = weights.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            named.map(|(_, weight)| *weight)
        };
        // If the header does not name `identity`, an uncompressed response is the last choice: the weight of `*` does
        // not apply to `identity`.
        let identity = named("identity").unwrap_or(0.0);
        let of = |coding: Self| named(coding.name()).or_else(|| named("*")).unwrap_or(0.0);
        let codings = Self::ALL.map(|coding| (of(coding), coding)).into_iter();
        // `max_by` returns the last of several maxima, so the codings are reversed: the best one comes last.
        let preferred = codings.rev().max_by(|(a, _), (b, _)| a.total_cmp(b));
        let (weight, coding) = preferred?;
        (weight > 0.0 && weight >= identity).then_some(coding)
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
        debug_assert!(written.is_ok(), "a write to a Vec never fails");
        encoded.into()
    }

    /// Sets the headers of a response that is compressed by `coding`, or that is not compressed (`None`). An
    /// uncompressed response needs `Vary` too, since a cache would otherwise send it to all clients.
    pub fn mark(coding: Option<Self>, response: &mut HeaderMap) {
        response.append(VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(coding) = coding {
            response.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
    }
}

/// Parses an element of `Accept-Encoding`: the coding's name, and its weight from 0 (not acceptable) to 1. An invalid
/// weight counts as 0, since an uncompressed response is valid for every client.
fn weight(element: &str) -> (&str, f32) {
    let Some((name, parameter)) = element.split_once(';') else {
        return (element.trim(), 1.0);
    };
    let parameter = parameter.split_once('=');
    let weight = parameter
        .filter(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
        .and_then(|(_, weight)| weight.trim().parse().ok())
        .filter(|weight| (0.0..=1.0).contains(weight));
    (name.trim(), weight.unwrap_or(0.0))
}

/// Compresses the JSON that the routes of `router` return, for clients that accept it.
pub fn compress_json(router: Router) -> Router {
    let compressor = Compressor::new();
    router.route_layer(from_fn(move |request: Request, next: Next| {
        let compressor = compressor.clone();
        async move {
            let coding = Coding::accepted(request.headers());
            compressor.compress(next.run(request).await, coding).await
        }
    }))
}

/// Compresses responses, but only a limited number of them at the same time.
#[derive(Clone)]
struct Compressor(Arc<Semaphore>);

impl Compressor {
    /// Creates a compressor that uses at most half of the cores, or one core if there is only one.
    fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new((cores / 2).max(1))))
    }

    /// Compresses `response` if its body is JSON of [`MIN_BYTES`] or more, the client accepts `coding`, and a permit is
    /// free.
    async fn compress(&self, mut response: Response, coding: Option<Coding>) -> Response {
        let json = response.headers().get(CONTENT_TYPE);
        let json = json.is_some_and(|kind| kind == "application/json");
        let bytes = response.body().size_hint().exact();
        if !json || bytes.is_none_or(|bytes| bytes < MIN_BYTES) {
            return response;
        }
        let permit = self.0.clone().try_acquire_owned().ok();
        let (Some(coding), Some(permit)) = (coding, permit) else {
            Coding::mark(None, response.headers_mut());
            return response;
        };
        Coding::mark(Some(coding), response.headers_mut());
        let (mut parts, body) = response.into_parts();
        // A body of known length is in memory already, so collecting it does not wait.
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        parts.headers.remove(CONTENT_LENGTH);
        let inline = body.len() <= MAX_INLINE_BYTES;
        // The permit is held until the compression ends, even if the client disconnects earlier.
        let encode = move || {
            let _permit = permit;
            coding.encode(&body, Effort::Each)
        };
        let encoded = match inline {
            true => encode(),
            // `spawn_blocking` fails only if the closure panics, and then the program's panic hook has already ended
            // the process.
            false => spawn_blocking(encode).await.unwrap_or_default(),
        };
        Response::from_parts(parts, Body::from(encoded))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;
    use std::{
        io::Read,
        pin::pin,
        task::{Context, Waker},
    };

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
            ("br;q=0.1, gzip;q=0.9", Some(Gzip)),
            ("gzip;q=0.5, br;q=0.5", Some(Brotli)),
            ("gzip;Q=1.000, br;q=0.999", Some(Gzip)),
            ("gzip;q=0.2, *;q=0.7", Some(Brotli)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity;q=0, gzip;q=0.1", Some(Gzip)),
            ("gzip;q=2, br;q=x", None),
            ("gzip;q=NaN, br;q=-1", None),
            ("gzip;level=9", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, accepted.parse().unwrap())]);
            assert_eq!(Coding::accepted(&headers), coding, "{accepted}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
    }

    #[test]
    fn compressed_bytes_are_restored_by_decompression() {
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

    proptest! {
        #[test]
        fn no_coding_has_a_higher_weight_than_the_chosen_one(
            brotli in 0_u16..=1000, gzip in 0_u16..=1000, identity in 0_u16..=1000,
        ) {
            let weights = [("gzip", gzip), ("br", brotli), ("identity", identity)];
            let element = |(name, weight)| format!("{name};q={}", f32::from(weight) / 1000.0);
            let header = weights.map(element).join(", ").parse().unwrap();
            let chosen = Coding::accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, header)]));
            let best = brotli.max(gzip);
            match chosen {
                Some(coding) => {
                    let of = weights.iter().find(|(name, _)| *name == coding.name()).unwrap().1;
                    prop_assert!(of == best && of > 0 && of >= identity);
                }
                None => prop_assert!(best == 0 || best < identity),
            }
        }
    }

    fn json(bytes: usize) -> Response {
        let mut response = Response::new(Body::from("1".repeat(bytes)));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    #[tokio::test]
    async fn without_a_permit_json_is_sent_uncompressed() {
        let compressor = Compressor(Arc::new(Semaphore::new(1)));
        for (permits, coding) in [(1, None), (0, Some("gzip"))] {
            let held = compressor.0.try_acquire_many(permits).unwrap();
            let response = compressor.compress(json(2000), Some(Coding::Gzip)).await;
            let encoding = response.headers().get(CONTENT_ENCODING);
            assert_eq!(encoding.map(|value| value.to_str().unwrap()), coding);
            assert_eq!(response.headers()[VARY], "accept-encoding");
            drop(held);
        }
        assert_eq!(compressor.0.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_long_response_is_compressed_off_the_runtime_s_threads() {
        let compressor = Compressor(Arc::new(Semaphore::new(1)));
        let mut cx = Context::from_waker(Waker::noop());
        let compress = |bytes| compressor.compress(json(bytes), Some(Coding::Brotli));
        let mut long = pin!(compress(MAX_INLINE_BYTES + 1));
        assert!(long.as_mut().poll(&mut cx).is_pending());
        assert_eq!(long.await.headers()[CONTENT_ENCODING], "br");
        let short = pin!(compress(MAX_INLINE_BYTES));
        assert!(short.poll(&mut cx).is_ready());
    }
}
