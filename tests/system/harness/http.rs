//! A small HTTP/1.1 client for tests, with one connection for each request.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Timeout that is longer than every timeout of the server.
const PATIENCE: Duration = Duration::from_secs(20);

/// A response.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Posts JSON. After an error it is not known whether the server accepted the request.
pub fn post(address: &str, path: &str, body: &str) -> io::Result<Answer> {
    request(address, "POST", path, body)
}

/// Sends a GET.
pub fn get(address: &str, path: &str) -> io::Result<Answer> {
    request(address, "GET", path, "")
}

pub fn request(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    request_with(address, method, path, "", body)
}

/// Sends a request with additional header lines, each of which ends in CRLF.
pub fn request_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Answer> {
    let bytes = exchange(address, method, path, headers, body)?;
    parse(&bytes).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Returns the number of bytes of a file as a browser gets it, compressed by gzip.
pub fn gzipped_bytes(address: &str, path: &str) -> io::Result<usize> {
    let bytes = exchange(address, "GET", path, "accept-encoding: gzip\r\n", "")?;
    let (head, body) = split(&bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
    assert!(head.contains("content-encoding: gzip"), "{path}: {head}");
    Ok(body.len())
}

/// Sends a request, and returns the bytes of the response.
fn exchange(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    // Chromedriver does not close the connection after its response.
    while !is_whole(&bytes) {
        match stream.read(&mut chunk)? {
            0 => break,
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(bytes)
}

/// Returns whether the bytes contain the whole body of a response that states its length.
fn is_whole(bytes: &[u8]) -> bool {
    split(bytes).is_some_and(|(head, body)| {
        content_length(&head).is_some_and(|length| body.len() >= length)
    })
}

fn content_length(head: &str) -> Option<usize> {
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?;
    Some(length.trim().parse().unwrap())
}

/// Parses a response. Returns `None` if it is incomplete.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let (head, body) = split(bytes)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(body)?
    } else {
        let length = content_length(&head).unwrap_or(body.len());
        body.get(..length)?.to_vec()
    };
    Some(Answer {
        status,
        head,
        body: String::from_utf8(body).unwrap(),
    })
}

/// Splits a response into its head, in lower case, and its body.
fn split(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    Some((head, &bytes[end + 4..]))
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 4 + size..)?;
    }
}

/// Returns the finals in a response with a room's history.
pub fn finals(history: &Answer) -> Vec<super::finals::Final> {
    let json = history.json();
    let list = json.as_array().or_else(|| json["finals"].as_array());
    let list = list.unwrap_or_else(|| panic!("no list of finals: {json}"));
    list.iter()
        .map(|frame| super::finals::Final::of(frame).unwrap())
        .collect()
}
