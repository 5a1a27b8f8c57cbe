//! Pages and proxies at an origin that is not the server's.

use std::{
    fs,
    io::{Read, Write, copy},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
};

/// The address of the server in the files of `examples/`.
const EXAMPLE_SERVER: &str = "127.0.0.1:8080";

/// Serves one page at a new origin.
pub fn serve(page: String) -> SocketAddr {
    listen(move |client, _| respond(client, "200 OK", "text/html", &page))
}

/// Serves the text files of a folder of `examples/` at a new origin. `server` replaces the address of the server in
/// them.
pub fn serve_example(folder: PathBuf, server: String) -> SocketAddr {
    listen(move |client, head| {
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap();
        let name = if path == "/" {
            "index.html"
        } else {
            &path[1..]
        };
        // A browser does not run a module that has no JavaScript content type.
        let kind = match name.rsplit_once('.') {
            Some((_, "js")) => "text/javascript",
            Some((_, "css")) => "text/css",
            _ => "text/html",
        };
        match fs::read_to_string(folder.join(name)) {
            Ok(text) => {
                let text = text.replace(EXAMPLE_SERVER, &server);
                respond(client, "200 OK", kind, &text);
            }
            Err(_) => respond(client, "404 Not Found", kind, ""),
        }
    })
}

fn respond(mut client: TcpStream, status: &str, kind: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let _ = client.write_all(&[head.as_bytes(), body.as_bytes()].concat());
}

/// Forwards requests, except those for which `refusal` returns a response. Each request has a connection of its own, so
/// that `refusal` is called for every head.
pub fn proxy(
    to: String,
    refusal: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> SocketAddr {
    listen(move |mut client, head| {
        let end = head
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        // The part of the body that was read with the head is forwarded without changes.
        let (head, body) = head.split_at(end);
        let head = String::from_utf8_lossy(head);
        if let Some(refusal) = refusal(&head) {
            let _ = client.write_all(refusal.as_bytes());
            return;
        }
        let head = head.replace("Connection: keep-alive", "Connection: close");
        let mut server = TcpStream::connect(&to).unwrap();
        server.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || copy(&mut up, &mut server));
        let _ = copy(&mut down, &mut client);
    })
}

/// Returns whether a head requests a WebSocket.
pub fn requests_a_websocket(head: &str) -> bool {
    head.to_lowercase().contains("upgrade: websocket")
}

/// Listens on a free port, and passes each connection to `each` with the head of its first request.
fn listen(each: impl Fn(TcpStream, Vec<u8>) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let each = Arc::new(each);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            thread::spawn(move || {
                let mut client = client;
                let (mut head, mut piece) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    match client.read(&mut piece) {
                        Ok(length) if length > 0 => head.extend(&piece[..length]),
                        _ => return,
                    }
                }
                each(client, head);
            });
        }
    });
    address
}
