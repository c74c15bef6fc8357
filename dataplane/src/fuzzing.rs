//! What must hold for any bytes that a client or an endpoint sends, or that lie on the disk: the door
//! through which fuzz targets and the tests that replay their corpus come in (feature
//! `fuzzing`).
//!
//! Each function takes the bytes of one case and panics if a promise is broken.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::{
    proxy::{Scanner, model as model_of, read_answer, read_request},
    view_file,
};

/// An answer over HTTP/1.1, to a HEAD if the first byte is odd: what is read does not depend
/// on how it is cut, and nothing of it is lost or read twice. Whatever is cut off is not
/// taken for the end, unless the connection's end is.
///
/// # Panics
///
/// If that does not hold.
pub fn answer(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let is_of_head = first % 2 == 1;
    let whole = read_answer([data], is_of_head);
    for pieces in [cut(data), data.chunks(1).collect()] {
        match (read_answer(pieces, is_of_head), &whole) {
            (Ok(pieces), Ok(whole)) => assert_eq!(pieces, *whole, "in pieces it is another"),
            (Err(_), Err(_)) => {}
            // A head that cannot become one is refused as soon as it is looked at.
            (Ok(None), Err(_)) => {}
            (pieces, whole) => panic!("whole {whole:?}, in pieces {pieces:?}"),
        }
    }
    let Ok(Some(whole)) = whole else {
        return;
    };
    assert!(
        whole.is_whole || whole.rest.is_empty(),
        "something is kept back"
    );
    let ends_itself = whole.is_whole && !whole.rest.is_empty();
    if ends_itself {
        let (read_on, _) = data.split_at(data.len() - whole.rest.len());
        let again = read_answer([read_on], is_of_head);
        let again = again.expect("it was read").expect("it was there");
        assert!(
            again.is_whole && again.rest.is_empty(),
            "it needs what comes after it"
        );
        assert_eq!((again.status, again.body), (whole.status, whole.body));
        let cut = &read_on[..read_on.len() - 1];
        let cut = read_answer([cut], is_of_head).ok().flatten();
        assert!(cut.is_none_or(|it| !it.is_whole), "it ends before its end");
    }
}

/// A client's request over HTTP/1.1: what is read does not depend on how it is cut, and nothing
/// of it is lost or read twice. Whatever is cut off is not taken for the end.
///
/// # Panics
///
/// If that does not hold.
pub fn request(data: &[u8]) {
    let whole = read_request([data]);
    for pieces in [cut(data), data.chunks(1).collect()] {
        match (read_request(pieces), &whole) {
            (Ok(pieces), Ok(whole)) => assert_eq!(pieces, *whole, "in pieces it is another"),
            (Err(_), Err(_)) => {}
            // A head that cannot become one is refused as soon as it is looked at.
            (Ok(None), Err(_)) => {}
            (pieces, whole) => panic!("whole {whole:?}, in pieces {pieces:?}"),
        }
    }
    let Ok(Some(whole)) = whole else {
        return;
    };
    if !whole.is_whole {
        assert!(whole.rest.is_empty(), "something is kept back");
        return;
    }
    let (read_on, _) = data.split_at(data.len() - whole.rest.len());
    let again = read_request([read_on]);
    let again = again.expect("it was read").expect("it was there");
    assert!(
        again.is_whole && again.rest.is_empty(),
        "it needs what comes after it"
    );
    assert_eq!((again.head, again.body), (whole.head, whole.body));
    let cut = &read_on[..read_on.len() - 1];
    let cut = read_request([cut]).ok().flatten();
    assert!(cut.is_none_or(|it| !it.is_whole), "it ends before its end");
}

/// A stream of server-sent events: what is found in it does not depend on how it is cut,
/// and an error stays found, as does content.
///
/// # Panics
///
/// If that does not hold.
pub fn sse(data: &[u8]) {
    let whole = scan([data]);
    let found = whole.error().map(str::to_owned);
    let agrees = |other: &Scanner| {
        other.error() == found.as_deref()
            && other.at_boundary() == whole.at_boundary()
            && other.has_content() == whole.has_content()
    };
    assert!(
        agrees(&scan(data.chunks(1))),
        "byte by byte it is another stream"
    );
    assert!(agrees(&scan(cut(data))), "in pieces it is another stream");

    let mut scanner = Scanner::default();
    for (at, byte) in data.iter().enumerate() {
        let known = scanner.error().map(str::to_owned);
        let had_content = scanner.has_content();
        if scanner.at_boundary() {
            // Nothing of what came before bears on what follows.
            let rest = scan([&data[at..]]);
            let first = known.clone().or_else(|| rest.error().map(str::to_owned));
            assert_eq!(first, found, "an event depends on the one before it");
            assert_eq!(rest.at_boundary(), whole.at_boundary());
            if data.len() > QUADRATIC_MAX {
                break;
            }
        }
        scanner.scan(std::slice::from_ref(byte));
        assert!(
            known.is_none() || scanner.error() == known.as_deref(),
            "an error is forgotten"
        );
        assert!(
            !had_content || scanner.has_content(),
            "content is forgotten"
        );
    }
}

/// A request body: where it names its model is found, or nothing is; if it is JSON, exactly
/// where the outermost object has that member, and with another name in its place it is
/// the same JSON but for that.
///
/// # Panics
///
/// If that does not hold.
pub fn model(data: &[u8]) {
    let found = model_of(data);
    if let Some(place) = &found {
        assert!(
            data[place.clone()].starts_with(b"\"") && data[place.clone()].ends_with(b"\""),
            "it is not a string"
        );
        // What follows has no say.
        assert_eq!(
            model_of(&data[..place.end]),
            found,
            "it depends on what follows"
        );
    }
    let Ok(First(named)) = serde_json::from_slice(data) else {
        return;
    };
    assert_eq!(
        found.is_some(),
        named.as_ref().is_some_and(Value::is_string)
    );
    if let (Some(place), Some(named)) = (found, named) {
        let text: Value = serde_json::from_slice(&data[place.clone()]).expect("it is a string");
        assert_eq!(text, named, "it is another member");
        let edited = [&data[..place.start], b"\"new\"", &data[place.end..]].concat();
        let First(renamed) = serde_json::from_slice(&edited).expect("it is still JSON");
        assert_eq!(renamed, Some("new".into()));
    }
}

/// The first member of an object that is called `model`.
struct First(Option<Value>);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<First, A::Error> {
                let mut first = None;
                while let Some(key) = members.next_key::<String>()? {
                    let value: Value = members.next_value()?;
                    if key == "model" {
                        first.get_or_insert(value);
                    }
                }
                Ok(First(first))
            }
        }
        object.deserialize_map(Members)
    }
}

/// A kept view: bytes that were not sealed with our key are refused, and so is a file in
/// which a bit has changed. What is sealed in it is refused as well, or a view that is
/// kept as it was read.
///
/// # Panics
///
/// If that does not hold.
pub fn view_file(data: &[u8]) {
    view_file::fuzzing::check(data);
}

/// Longest stream that is looked at from each of its boundaries.
const QUADRATIC_MAX: usize = 512;

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Scanner {
    let mut scanner = Scanner::default();
    for piece in pieces {
        scanner.scan(piece);
    }
    scanner
}

/// Cuts bytes into pieces of up to 16, empty ones among them, by the bytes themselves.
fn cut(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut seed = data.len();
    while let Some(first) = data.first() {
        seed = seed.wrapping_mul(31).wrapping_add(usize::from(*first));
        if seed.is_multiple_of(5) {
            pieces.push(&data[..0]);
        }
        let (piece, rest) = data.split_at((1 + seed % 16).min(data.len()));
        pieces.push(piece);
        data = rest;
    }
    pieces
}
