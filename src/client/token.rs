//! Tokens (JWT) that a client sends. The client does not verify them, since only the server has the key.
//!
//! Invariant: no error message and no `Debug` output contains a token. Tokens are read from a file and not from an
//! argument, because other users of the host may read the arguments of a process.

use std::{fmt, fs::File, io::Read, path::Path};

use emostream_app::flags::text_file;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;

/// Maximum bytes of a file of tokens. A file of this size has some hundred thousand tokens.
const FILE_BYTES: u64 = 64 << 20;

/// A token, and the user that it was issued to.
#[derive(Clone)]
pub(crate) struct Token {
    /// The claim `sub` of the token. Only reactions of this user may be sent with the token.
    pub(crate) user: String,
    /// The value of the `Authorization` header: `Bearer …`.
    header: HeaderValue,
}

/// The claims of a token that the client reads.
#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Token {
    /// Reads a file that contains one token per line.
    pub(crate) fn read_all(file: &Path) -> Result<Vec<Self>, String> {
        let unreadable = |error| format!("the file cannot be read: {error}");
        let mut text = String::new();
        let opened = File::open(file).map_err(unreadable)?;
        let read = opened.take(FILE_BYTES + 1).read_to_string(&mut text);
        if read.map_err(unreadable)? as u64 > FILE_BYTES {
            return Err(format!("the file has more than {FILE_BYTES} bytes"));
        }
        Self::all(&text_file::without_bom(text))
    }

    fn all(text: &str) -> Result<Vec<Self>, String> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let tokens = lines.filter(|(_, line)| !line.is_empty());
        let tokens: Result<Vec<Self>, String> = tokens
            .map(|(number, line)| {
                Self::new(line).ok_or(format!(
                    "line {number} is not a token: write a JWT of three parts whose sub is a string"
                ))
            })
            .collect();
        match tokens {
            Ok(tokens) if tokens.is_empty() => {
                Err("the file is empty; put a token (JWT) into it".to_owned())
            }
            tokens => tokens,
        }
    }

    fn new(token: &str) -> Option<Self> {
        let Claims { sub } = jsonwebtoken::dangerous::insecure_decode(token).ok()?.claims;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(Self { user: sub, header })
    }

    /// Adds the token as the `Authorization` header.
    pub(crate) fn sign(token: Option<&Self>, headers: &mut HeaderMap) {
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.header.clone());
        }
    }
}

impl fmt::Debug for Token {
    /// Formats only the user, because the token is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.user)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    fn token(claims: Value) -> String {
        let key = EncodingKey::from_secret(b"the issuer's secret");
        encode(&Header::default(), &claims, &key).unwrap()
    }

    #[test]
    fn every_line_of_a_file_is_a_token() {
        let (ada, bob) = (
            token(json!({"sub": "ada"})),
            token(json!({"sub": "bob", "exp": 1})),
        );
        let tokens = Token::all(&format!("{ada}\r\n\n  {bob}\n")).unwrap();
        let users: Vec<&str> = tokens.iter().map(|token| &*token.user).collect();
        assert_eq!(users, ["ada", "bob"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("\u{feff}{ada}\n")).unwrap();
        assert_eq!(Token::read_all(file.path()).unwrap()[0].user, "ada");
        let mut headers = HeaderMap::new();
        Token::sign(Some(&tokens[1]), &mut headers);
        assert_eq!(headers[AUTHORIZATION], format!("Bearer {bob}"));
    }

    #[test]
    fn a_line_that_is_not_a_token_is_refused_by_its_number_and_not_printed() {
        let good = token(json!({"sub": "ada"}));
        for bad in [
            "hunter2".to_owned(),
            "hunter2.hunter2.hunter2".to_owned(),
            token(json!({"sub": 7})),
            token(json!({})),
        ] {
            let refused = Token::all(&format!("{good}\n{bad}\n")).unwrap_err();
            assert!(refused.starts_with("line 2 "), "{refused}");
            assert!(!refused.contains(&bad), "{refused}");
        }
        assert!(Token::all("\n \n").is_err());
        assert!(!format!("{:?}", Token::all(&good)).contains(&good));
    }
}
