#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, Ed25519KeyPair},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::middleware::auth::{
    claims::LEEWAY,
    testing::{Issuer, SECRET, ec, ed25519, p256, pem, rsa, secret, set},
};

const NOW: u64 = 1_764_000_000;

fn parse(text: &[u8]) -> Result<KeyFile, InvalidKey> {
    KeyFile::parse(text, &RequiredClaims::default())
}

impl Issuer {
    fn key(&self) -> KeyFile {
        parse(self.file.as_bytes()).unwrap()
    }
}

/// Returns the key of a file that has one key.
fn only(file: &KeyFile) -> &TokenKey {
    match file {
        KeyFile::Key(key) => key,
        KeyFile::Set(set) => panic!("a set: {set:?}"),
    }
}

fn good() -> Value {
    json!({"sub": "u-17", "exp": NOW + 60})
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verdict(key: &KeyFile, token: &str) -> Result<String, InvalidToken> {
    key.verify(token, at(NOW)).map(|claims| claims.sub)
}

#[test]
fn a_key_accepts_its_own_tokens_and_none_of_another_key() {
    let (rsa, pkcs1) = rsa();
    let issuers = [secret(SECRET), ed25519(), p256(), rsa];
    for (index, issuer) in issuers.iter().enumerate() {
        let key = issuer.key();
        assert_eq!(only(&key).algorithm(), issuer.algorithm);
        for (other, from) in issuers.iter().enumerate() {
            let taken = verdict(&key, &from.token(&good()));
            let expected = match index == other {
                true => Ok("u-17".to_owned()),
                false => Err(InvalidToken::Invalid),
            };
            assert_eq!(taken, expected, "{:?} {:?}", key, from.algorithm);
        }
    }
    let key = parse(pkcs1.as_bytes()).unwrap();
    assert_eq!(verdict(&key, &issuers[3].token(&good())).unwrap(), "u-17");
    for other in [secret(&SECRET.to_uppercase()), ed25519(), p256()] {
        for issuer in &issuers {
            let refused = verdict(&issuer.key(), &other.token(&good()));
            assert_eq!(refused, Err(InvalidToken::Invalid));
        }
    }
}

#[test]
fn a_key_set_in_a_file_verifies_tokens_and_warns_of_the_keys_that_it_skips() {
    let (issuer, short) = (p256(), secret("hunter2"));
    let (mut other, good_token) = (
        issuer.jwk(Some("encrypts")),
        issuer.token_with_kid(Some("k1"), &good()),
    );
    other["use"] = json!("enc");
    let jwks = set(&[other, issuer.jwk(Some("k1")), short.jwk(Some("s1"))]);
    let marked = format!("\u{feff}\n {jwks}");
    for text in [&jwks, &marked] {
        let file = parse(text.as_bytes()).unwrap();
        assert_eq!(verdict(&file, &good_token), Ok("u-17".to_owned()));
        let warnings = file.warnings().join("\n");
        for words in ["\"encrypts\" is skipped", "32 bytes"] {
            assert!(warnings.contains(words), "{warnings}");
        }
        assert!(!warnings.contains("hunter2"));
    }
}

#[test]
fn the_header_of_a_token_does_not_choose_the_algorithm() {
    let issuer = ed25519();
    let key = issuer.key();
    let good = issuer.token(&good());
    let (_, rest) = good.split_once('.').unwrap();
    let (claims, _) = rest.split_once('.').unwrap();
    // The headers of these tokens are {"alg":"none"}, {"typ":"JWT","alg":"none"} and {"alg":"NONE"} in base64url.
    for header in [
        "eyJhbGciOiJub25lIn0",
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0",
        "eyJhbGciOiJOT05FIn0",
    ] {
        for token in [
            format!("{header}.{claims}."),
            format!("{header}.{claims}"),
            format!("{header}.{rest}"),
        ] {
            assert_eq!(verdict(&key, &token), Err(InvalidToken::Invalid), "{token}");
        }
    }
    // An attacker knows the public key, and may use each encoding of it as the secret of an HS256 signature.
    let jwk = issuer.jwk(None);
    let (jwk, x) = (jwk.to_string(), jwk["x"].as_str().unwrap().to_owned());
    let der = pem::parse(&issuer.file).unwrap();
    // The last 32 bytes of the DER encoding are the public key itself.
    let der = der.contents();
    for secret in [
        issuer.file.as_bytes(),
        issuer.file.trim().as_bytes(),
        der,
        &der[der.len() - 32..],
        jwk.as_bytes(),
        x.as_bytes(),
    ] {
        let signs = EncodingKey::from_secret(secret);
        let claims = json!({"sub": "u-17", "exp": NOW + 60});
        let token = encode(&Header::new(Algorithm::HS256), &claims, &signs).unwrap();
        assert_eq!(verdict(&key, &token), Err(InvalidToken::Invalid));
    }
    // Tokens that are signed with the right secret but with another hash are refused too.
    let issuer = secret(SECRET);
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let claims = json!({"sub": "u-17", "exp": NOW + 60});
        let token = encode(&Header::new(algorithm), &claims, &issuer.signs).unwrap();
        assert_eq!(verdict(&issuer.key(), &token), Err(InvalidToken::Invalid));
    }
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let claims = json!({"sub": "u-17", "exp": NOW + 60});
    let token = encode(&header, &claims, &issuer.signs).unwrap();
    assert_eq!(
        verdict(&issuer.key(), &token),
        Err(InvalidToken::Invalid),
        "crit"
    );
}

#[test]
fn claims_are_checked_as_documented() {
    let issuer = secret(SECRET);
    let key = issuer.key();
    let leeway = LEEWAY.as_secs();
    let (taken, invalid) = (None, Some(InvalidToken::Invalid));
    let (expired, early) = (Some(InvalidToken::Expired), Some(InvalidToken::Early));
    let wrong = |claim, expected| Some(InvalidToken::Claim { claim, expected });
    for (claims, expected) in [
        (json!({"sub": "u", "exp": NOW + 1}), taken),
        (json!({"sub": "u", "exp": NOW as f64 + 0.5}), taken),
        (json!({"sub": "u", "exp": NOW - leeway + 1}), taken),
        (json!({"sub": "u", "exp": NOW - leeway}), expired),
        (json!({"sub": "u", "exp": 0}), expired),
        (json!({"sub": "u", "exp": -1e300}), expired),
        (json!({"sub": "u", "exp": 1e300}), taken),
        (json!({"sub": "u"}), Some(InvalidToken::Without("exp"))),
        (
            json!({"sub": "u", "exp": null}),
            wrong("exp", "a number of seconds"),
        ),
        (
            json!({"sub": "u", "exp": "2026-01-31T20:15:00Z"}),
            wrong("exp", "a number of seconds"),
        ),
        (json!({"exp": NOW + 1}), Some(InvalidToken::Without("sub"))),
        (json!({}), Some(InvalidToken::Without("sub"))),
        (json!({"sub": 17, "exp": NOW + 1}), wrong("sub", "text")),
        (json!({"sub": null, "exp": NOW + 1}), wrong("sub", "text")),
        (
            json!({"sub": "u", "exp": NOW + 60, "nbf": NOW + leeway}),
            taken,
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "nbf": NOW + leeway + 1}),
            early,
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "nbf": "now"}),
            wrong("nbf", "a number of seconds"),
        ),
        (json!({"sub": "u", "exp": NOW + 60, "rooms": []}), taken),
        (
            json!({"sub": "u", "exp": NOW + 60, "rooms": ["a", "b-*"]}),
            taken,
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "rooms": "a"}),
            wrong("rooms", "a list of strings"),
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "rooms": null}),
            wrong("rooms", "a list of strings"),
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "rooms": [1]}),
            wrong("rooms", "a list of strings"),
        ),
        (
            json!({"sub": "u", "exp": NOW + 60, "aud": "other", "iss": 5, "iat": 0}),
            taken,
        ),
        (json!([]), invalid),
        (json!("u"), invalid),
    ] {
        let error = verdict(&key, &issuer.token(&claims)).err();
        assert_eq!(error, expected, "{claims}");
    }
}

#[test]
fn a_token_is_valid_until_its_exp_and_the_leeway_are_over() {
    let issuer = secret(SECRET);
    let claims = |exp: Value| {
        let token = issuer.token(&json!({"sub": "u", "exp": exp}));
        issuer.key().verify(&token, at(NOW)).unwrap()
    };
    let minute = Duration::from_secs(60);
    assert_eq!(claims(json!(NOW + 60)).expires_in(at(NOW)), minute + LEEWAY);
    assert_eq!(claims(json!(NOW + 60)).expires_in(at(NOW + 120)), LEEWAY);
    assert_eq!(claims(json!(1e300)).expires_in(at(NOW)), Duration::MAX);
}

#[test]
fn the_error_of_an_invalid_file_says_what_to_do_and_repeats_nothing_of_the_file() {
    let (rsa, _) = rsa();
    let p384 = ec(&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384).file;
    let ed = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let private = pem("PRIVATE KEY", ed.as_ref());
    let certificate = rsa.file.replace("PUBLIC KEY", "CERTIFICATE");
    let broken = rsa.file.replacen("\nM", "\nN", 1);
    for (file, words) in [
        (&b""[..], "empty"),
        (b"\r\n\n", "empty"),
        (b"  \n", "empty"),
        (
            b"two lines, which together would be\nlong enough",
            "one line",
        ),
        (
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
            "one line",
        ),
        (
            b"\x00\x01\x02\x03 bytes that nobody could have typed",
            "one line",
        ),
        (
            br#"{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAA"}"#,
            "JWK",
        ),
        (
            b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAA me",
            "SSH",
        ),
        (br#"{"keys":[]}"#, "without a usable key"),
        (b"[1]", "JWKS"),
        (b"{\"keys\":", "JWKS"),
        (private.as_bytes(), "openssl pkey"),
        (
            private.replace("PRIVATE", "EC PRIVATE").as_bytes(),
            "openssl pkey",
        ),
        (certificate.as_bytes(), "openssl x509"),
        (p384.as_bytes(), "P-256"),
        (broken.as_bytes(), "P-256"),
        (
            b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
            "P-256",
        ),
        (RSA_1024.as_bytes(), "2048"),
    ] {
        let error = parse(file).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let read = |file| KeyFile::read(file, &RequiredClaims::default());
    let dir = std::env::temp_dir();
    assert!(matches!(read(&dir), Err(InvalidKey::Unreadable(_))));
    let none = dir.join("no-such-key-of-emostream");
    assert!(matches!(read(&none), Err(InvalidKey::Unreadable(_))));
    let endless = Path::new("/dev/zero");
    assert!(matches!(read(endless), Err(InvalidKey::Long)));
}

#[test]
fn a_secret_that_can_be_guessed_is_accepted_and_reported() {
    for (file, guessable) in [
        ("secret", true),
        ("exactly thirty-one bytes of it.", true),
        ("exactly thirty-two bytes of it !", false),
    ] {
        let issuer = secret(file);
        let key = issuer.key();
        assert_eq!(verdict(&key, &issuer.token(&good())), Ok("u-17".to_owned()));
        assert_eq!(only(&key).is_guessable(), guessable, "{file}");
    }
    assert!(!only(&ed25519().key()).is_guessable());
}

/// An RSA public key of 1024 bits, which is too short to be safe.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCWBQSeZNEBndd6bNsL7JZME9oz
Nq0MuZynP5hgIFaUo9eCyJOpMifmhlBWgiT6Qu/5HOSn9aY+qkcVsWIKKZufRvaj
U57uuo5l29fNYKY3kf2+Yp+nVbShPUoBY7RNR92iof+O4s2iCY9uKWRIayzLnCEf
uanK4rFyti8xQ0vlSQIDAQAB
-----END PUBLIC KEY-----
";

#[test]
fn a_key_is_never_shown() {
    let shown = format!("{:?}", secret(SECRET).key());
    assert_eq!(shown, "Key(TokenKey(HS256))");
    let jwks = set(&[secret(SECRET).jwk(Some("k1"))]);
    let shown = format!("{:?}", parse(jwks.as_bytes()).unwrap());
    assert!(
        shown.contains("TokenKey(HS256)") && !shown.contains("HS256,"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_text_gets_a_verdict(text in "\\PC*", parts in "[A-Za-z0-9_.-]{0,200}") {
        let key = secret(SECRET).key();
        prop_assert_eq!(verdict(&key, &text), Err(InvalidToken::Invalid));
        prop_assert_eq!(verdict(&key, &parts), Err(InvalidToken::Invalid));
    }

    #[test]
    fn any_bytes_are_a_key_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_changed_byte_spoils_a_token(place in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_-]") {
        let issuer = secret(SECRET);
        let good = issuer.token(&good());
        let mut bytes = good.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = to.as_bytes()[0];
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != good);
        prop_assert_eq!(verdict(&issuer.key(), &changed), Err(InvalidToken::Invalid));
    }
}
