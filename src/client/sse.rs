//! A parser of Server-Sent Events (WHATWG HTML, "Interpreting an event stream"). It returns only the `data` of each
//! event.

/// Maximum bytes of an event. A frame is much smaller: with 20 counts it has less than 4 kB.
const EVENT_BYTES: usize = 1 << 20;

/// The parser, which splits a stream of bytes into events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    bytes: Vec<u8>,
}

impl Events {
    /// Appends bytes of the stream. Returns an error if more than [`EVENT_BYTES`] bytes wait for the end of an event.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes
            .extend(bytes.iter().filter(|byte| **byte != b'\r'));
        match self.bytes.len() <= EVENT_BYTES {
            true => Ok(()),
            false => Err("an event is longer than 1 MiB".to_owned()),
        }
    }

    /// Returns the data of the next complete event. Events without data (comments, `retry`) are skipped.
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            let end = self.bytes.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
            let data: Vec<&str> = data.map(|d| d.strip_prefix(' ').unwrap_or(d)).collect();
            if !data.is_empty() {
                return Some(data.join("\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_do_not_depend_on_how_the_stream_is_split() {
        let stream = "retry: 500\n\n: ping\n\nevent: final\nid: 0-1\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\n";
        for piece in 1..stream.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for bytes in stream.as_bytes().chunks(piece) {
                assert_eq!(events.feed(bytes), Ok(()));
                seen.extend(std::iter::from_fn(|| events.next()));
            }
            assert_eq!(seen, ["{\"a\":1}", "x\ny"], "in pieces of {piece}");
        }
    }
}
