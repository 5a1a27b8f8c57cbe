#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::middleware::auth::testing::{Issuer, SECRET, ed25519, p256, rsa, secret, set};

fn parse(keys: &[Value], origin: Origin) -> Result<KeySet, InvalidKeySet> {
    KeySet::parse(set(keys).as_bytes(), origin, &RequiredClaims::default())
}

fn claims() -> Value {
    json!({"sub": "u-17", "exp": 4e9})
}

fn verdict(set: &KeySet, token: &str) -> Result<String, InvalidToken> {
    set.verify(token, SystemTime::now())
        .map(|claims| claims.sub)
}

/// Returns the JWK with one member changed. The value `null` removes the member.
fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
        value => jwk[name] = value,
    }
    jwk
}

#[test]
fn each_type_of_key_verifies_its_own_tokens() {
    let issuers = [ed25519(), p256(), rsa().0, secret(SECRET)];
    let kids = ["ed", "ec", "rsa", "oct"];
    let jwks: Vec<_> = issuers
        .iter()
        .zip(kids)
        .map(|(issuer, kid)| issuer.jwk(Some(kid)))
        .collect();
    let set = parse(&jwks, Origin::File).unwrap();
    assert_eq!((set.len(), set.skipped()), (4, &[][..]));
    for (issuer, own) in issuers.iter().zip(kids) {
        for kid in kids {
            let token = issuer.token_with_kid(Some(kid), &claims());
            let expected = match kid == own {
                true => Ok("u-17".to_owned()),
                false => Err(InvalidToken::Invalid),
            };
            assert_eq!(verdict(&set, &token), expected, "{own} as {kid}");
        }
        let unnamed = issuer.token_with_kid(None, &claims());
        assert_eq!(verdict(&set, &unnamed), Ok("u-17".to_owned()), "{own}");
        for unknown in ["", "ED", "ed "] {
            let token = issuer.token_with_kid(Some(unknown), &claims());
            assert_eq!(
                verdict(&set, &token),
                Err(InvalidToken::UnknownKey),
                "{unknown:?}"
            );
        }
    }
    assert_eq!(verdict(&set, "junk"), Err(InvalidToken::Invalid));
}

#[test]
fn a_public_key_is_never_the_secret_of_a_signature() {
    for issuer in [ed25519(), p256(), rsa().0] {
        let jwk = issuer.jwk(Some("k1"));
        let set = parse(std::slice::from_ref(&jwk), Origin::Url).unwrap();
        let text = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
        for secret in [issuer.file.clone(), jwk.to_string(), text("x"), text("n")] {
            for kid in [Some("k1"), None] {
                let mut header = Header::new(Algorithm::HS256);
                header.kid = kid.map(str::to_owned);
                let signs = EncodingKey::from_secret(secret.as_bytes());
                let token = encode(&header, &claims(), &signs).unwrap();
                assert_eq!(verdict(&set, &token), Err(InvalidToken::Invalid));
            }
        }
    }
}

#[test]
fn keys_for_other_purposes_are_skipped_with_a_reason() {
    let (ed, ec, rsa, oct) = (ed25519(), p256(), rsa().0, secret(SECRET));
    let (ed, ec, rsa, oct) = (ed.jwk(None), ec.jwk(None), rsa.jwk(None), oct.jwk(None));
    for (jwk, name, value, words) in [
        (&ed, "use", json!("sig"), ""),
        (&ed, "key_ops", json!(["verify"]), ""),
        (&ed, "alg", Value::Null, ""),
        (&rsa, "alg", Value::Null, ""),
        (&rsa, "x5c", json!(["MIIB"]), ""),
        (&rsa, "use", json!("enc"), "use"),
        (&ec, "key_ops", json!(["sign"]), "key_ops"),
        (&ec, "key_ops", json!([]), "key_ops"),
        (&rsa, "alg", json!("PS256"), "PS256"),
        (&rsa, "alg", json!("RS512"), "RS512"),
        (&rsa, "alg", json!("HS256"), "HS256"),
        (&oct, "alg", json!("HS512"), "HS512"),
        (&ec, "alg", json!("ES256K"), "alg"),
        (&ec, "crv", json!("P-384"), "P-256"),
        (&ec, "crv", json!("secp256k1"), "P-256"),
        (&ed, "crv", json!("X25519"), "Ed25519"),
        (&ec, "kty", json!("AKP"), "kty"),
        (&ec, "kty", Value::Null, "kty"),
        (&ec, "d", json!("AAAA"), "private"),
        (&rsa, "d", json!("AAAA"), "private"),
        (&ec, "x", json!("AAAA"), "not a valid key"),
        (&ec, "x", json!("not base64!"), "not a valid key"),
        (&ed, "x", json!("AAAA"), "not a valid key"),
        (&rsa, "n", json!("AQAB"), "not a valid key"),
        (&oct, "k", json!(""), "not a valid key"),
        (&ec, "kid", json!(7), "not a JWK"),
        (&ec, "use", json!(["sig"]), "not a JWK"),
    ] {
        let changed = with(jwk.clone(), name, value);
        let parsed = parse(&[changed.clone(), jwk.clone()], Origin::File).unwrap();
        let lines = describe_skipped(parsed.skipped()).join("\n");
        match words.is_empty() {
            true => assert_eq!((parsed.len(), lines.as_str()), (2, ""), "{changed}"),
            false => assert!(lines.contains(words), "{changed}: {lines}"),
        }
        if !words.is_empty() {
            let refused = parse(&[changed], Origin::File).unwrap_err().to_string();
            assert!(
                refused.contains("without a usable key") && refused.contains(words),
                "{refused}"
            );
        }
    }
    let published = parse(&[oct, ec], Origin::Url).unwrap();
    let lines = describe_skipped(published.skipped()).join("\n");
    assert!(lines.contains("from a file only"), "{lines}");
}

#[test]
fn a_text_that_is_not_a_set_is_refused() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "<html>",
        r#"{"keys":{}}"#,
        r#"{"keys":[]"#,
    ] {
        let refused = KeySet::parse(text.as_bytes(), Origin::Url, &RequiredClaims::default());
        assert_eq!(refused.unwrap_err(), InvalidKeySet::NotASet, "{text}");
    }
    let none = parse(&[], Origin::Url).unwrap_err();
    assert_eq!(none, InvalidKeySet::NoUsableKey(FirstReason(None)));
    let odd = parse(
        &[json!("k1"), json!(7), Value::Null, json!([])],
        Origin::Url,
    );
    assert!(odd.is_err());
}

/// The issuer chooses the `kid`. A `kid` must not add lines to the log, or make a line long.
#[test]
fn a_log_line_of_a_skipped_key_is_one_line_and_short() {
    let kid = format!("k1\nERROR all is lost {}", "x".repeat(500));
    let jwk = with(p256().jwk(Some(&kid)), "use", json!("enc"));
    let keys: Vec<_> = std::iter::repeat_n(jwk, 40)
        .chain([ed25519().jwk(None)])
        .collect();
    let set = parse(&keys, Origin::Url).unwrap();
    let lines = describe_skipped(set.skipped());
    assert_eq!(lines.len(), MAX_LOGGED_KEYS + 1);
    assert!(
        lines
            .iter()
            .all(|line| !line.contains('\n') && line.len() < 250),
        "{lines:?}"
    );
    assert_eq!(lines[MAX_LOGGED_KEYS], "24 more keys are skipped");
}

/// Without the limit, a client could make the server verify one token with every key of a large set.
#[test]
fn a_token_is_tried_with_few_keys() {
    let issuers: Vec<_> = (0..=MAX_TRIED_KEYS).map(|_| ed25519()).collect();
    let name = |index: usize| format!("k{index}");
    let jwk = |index: usize| issuers[index].jwk(Some(&name(index)));
    let jwks: Vec<_> = (0..=MAX_TRIED_KEYS).map(jwk).collect();
    let (few, many) = (&jwks[..MAX_TRIED_KEYS], &jwks[..]);
    let unnamed = issuers[MAX_TRIED_KEYS - 1].token_with_kid(None, &claims());
    let few = parse(few, Origin::Url).unwrap();
    assert_eq!(verdict(&few, &unnamed), Ok("u-17".to_owned()));
    let many = parse(many, Origin::Url).unwrap();
    assert_eq!(verdict(&many, &unnamed), Err(InvalidToken::Ambiguous));
    for (index, issuer) in issuers.iter().enumerate() {
        let named = issuer.token_with_kid(Some(&name(index)), &claims());
        assert_eq!(verdict(&many, &named), Ok("u-17".to_owned()));
    }
}

#[test]
fn two_keys_of_one_kid_are_both_tried() {
    let (one, two, three) = (p256(), p256(), ed25519());
    let jwks = [&one, &two, &three].map(|issuer| issuer.jwk(Some("same")));
    let set = parse(&jwks, Origin::Url).unwrap();
    for issuer in [one, two, three] {
        let token = issuer.token_with_kid(Some("same"), &claims());
        assert_eq!(verdict(&set, &token), Ok("u-17".to_owned()));
    }
}

#[test]
fn a_claim_that_is_wrong_is_named_by_a_set_as_well() {
    let (one, two) = (p256(), p256());
    let set = parse(&[one.jwk(None), two.jwk(None)], Origin::Url).unwrap();
    let expired = two.token(&json!({"sub": "u", "exp": 1}));
    assert_eq!(verdict(&set, &expired), Err(InvalidToken::Expired));
    let wrong = two.token(&json!({"sub": 7, "exp": 4e9}));
    let expected = InvalidToken::Claim {
        claim: "sub",
        expected: "text",
    };
    assert_eq!(verdict(&set, &wrong), Err(expected));
}

/// Keys of every type. They are generated once, since generating an RSA key takes long.
static POOL: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    let rsa = || rsa().0;
    vec![
        ed25519(),
        ed25519(),
        ed25519(),
        p256(),
        p256(),
        p256(),
        rsa(),
        rsa(),
        secret(SECRET),
        secret("another secret of at least 32 bytes, of somebody else"),
    ]
});

fn kid() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("k[0-3]")
}

proptest! {
    /// The token is not accepted, whatever `kid` and `alg` its header has.
    #[test]
    fn a_token_of_a_key_outside_of_the_set_is_never_accepted(
        members in proptest::collection::vec((any::<bool>(), kid()), POOL.len()),
        signer in 0..POOL.len(),
        token_kid in kid(),
    ) {
        let members: Vec<_> = POOL
            .iter()
            .enumerate()
            .zip(&members)
            .filter_map(|((index, issuer), (is_member, kid))| is_member.then_some((index, issuer, kid)))
            .collect();
        let jwks: Vec<_> = members.iter().map(|(_, issuer, kid)| issuer.jwk(kid.as_deref())).collect();
        prop_assume!(!jwks.is_empty());
        let set = parse(&jwks, Origin::File).unwrap();
        let token = POOL[signer].token_with_kid(token_kid.as_deref(), &claims());
        let fits = |(index, _, kid): &(usize, &Issuer, &Option<String>)| {
            *index == signer && (token_kid.is_none() || **kid == token_kid)
        };
        prop_assert_eq!(verdict(&set, &token).is_ok(), members.iter().any(fits));
    }

    #[test]
    fn any_text_is_a_set_or_is_refused(text in "\\PC*", members in proptest::collection::vec("[a-z]{1,3}", 0..4)) {
        let _ = KeySet::parse(text.as_bytes(), Origin::Url, &RequiredClaims::default());
        let jwk: serde_json::Map<_, _> = members.into_iter().map(|name| (name, json!(text))).collect();
        let _ = parse(&[Value::Object(jwk)], Origin::Url);
    }
}
