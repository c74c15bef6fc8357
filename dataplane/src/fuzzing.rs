//! What must hold for any bytes that an endpoint sends, or that lie on the disk: the door
//! through which fuzz targets and the tests that replay their corpus come in (feature
//! `fuzzing`).
//!
//! Each function takes the bytes of one case and panics if a promise is broken.

use crate::{proxy::Scanner, view_file};

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
