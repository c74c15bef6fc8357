use proptest::prelude::*;

use super::*;

fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Scanner {
    let mut scanner = Scanner::default();
    for chunk in chunks {
        scanner.scan(chunk);
    }
    scanner
}

const OVERLOADED: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n\
    : ping\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
    \"message\":\"Overloaded\"}}\n\n";

#[test]
fn an_error_is_the_first_only_if_no_content_came_before_it() {
    let content = "event: content_block_delta\ndata: {}\n\n";
    let error = "event: error\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    for (stream, first) in [
        ([error, content], Some("overloaded_error")),
        ([content, error], None),
    ] {
        let mut scanner = Scanner::default();
        scanner.scan(stream.concat().as_bytes()); // As it may be read, in one piece.
        assert_eq!(scanner.first_error(), first);
        assert_eq!(scanner.error(), Some("overloaded_error"));
    }
}

#[test]
fn an_error_event_is_found_whatever_ends_its_lines() {
    for newline in ["\n", "\r\n", "\r"] {
        let stream = OVERLOADED.replace('\n', newline);
        let scanner = scan([stream.as_bytes()]);
        assert_eq!(scanner.error(), Some("overloaded_error"), "{newline:?}");
        assert!(scanner.at_boundary());
    }
}

#[test]
fn what_only_looks_like_an_error_is_none() {
    for stream in [
        "event: message_delta\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\n\n",
        "data: event: error\n\n",
        "event: errors\ndata: {}\n\n",
        ": event: error\ndata: {}\n\n",
        "event: error\nevent: ping\ndata: {}\n\n",
        "event: error", // Cut: nobody knows what it would have become.
    ] {
        assert_eq!(scan([stream.as_bytes()]).error(), None, "{stream:?}");
    }
}

#[test]
fn an_error_without_a_type_is_still_an_error() {
    for stream in [
        "event:error\ndata: oops\n\n",
        "event: error\n\n",
        "event: error\ndata: {\"error\":\"oops\"}\n",
    ] {
        assert_eq!(scan([stream.as_bytes()]).error(), Some(""), "{stream:?}");
    }
}

#[test]
fn an_error_is_found_in_each_shape_and_known_by_its_most_telling_word() {
    for (stream, expected) in [
        (
            r#"data: {"error":{"message":"m","type":"server_error","param":null,"code":null}}"#,
            "server_error",
        ),
        (
            r#"data: { "error" : {"type":"invalid_request_error","code":"invalid_api_key"}}"#,
            "invalid_api_key",
        ),
        (
            r#"data: {"error":{"type":"invalid_request_error","code":"model_not_found"}}"#,
            "invalid_request_error",
        ),
        (
            r#"data: {"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#,
            "rate_limit_exceeded",
        ),
        (r#"data: {"error":{"message":"m","code":429}}"#, "429"),
        (r#"data: {"error":"oops"}"#, ""),
        (
            r#"data:{"type":"error","error":{"type":"overloaded_error"}}"#,
            "overloaded_error",
        ),
        (
            "event: message\ndata: {\"error\":{\"type\":\"api_error\"}}",
            "api_error",
        ),
        (
            "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"m\"}",
            "server_error",
        ),
        (
            "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\"}}}",
            "rate_limit_exceeded",
        ),
    ] {
        let after_content =
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}]}}\n\n{stream}\n\n");
        for stream in [format!("{stream}\n\n"), after_content] {
            assert_eq!(
                scan([stream.as_bytes()]).error(),
                Some(expected),
                "{stream}"
            );
        }
    }
}

#[test]
fn a_long_message_before_the_type_does_not_hide_it() {
    let message = "m".repeat(8000);
    let stream =
        format!("data: {{\"error\":{{\"message\":\"{message}\",\"type\":\"api_error\"}}}}\n");
    assert_eq!(scan([stream.as_bytes()]).error(), Some("api_error"));
}

#[test]
fn content_is_neither_an_opening_nor_an_error() {
    for (stream, expected) in [
        ("", false),
        (": comment\n\n: another\n\n", false),
        ("retry: 3\nid: 1\n\n", false),
        (
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
            false,
        ),
        ("event: ping\ndata: {\"type\": \"ping\"}\n\n", false),
        ("event: content_block_start\n", true),
        (
            "event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {}\n\n",
            false,
        ),
        ("event: response.output_item.added\n", true),
        ("event: error\ndata: {}\n\n", false),
        (
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"finish_reason\":null}]}\n\n",
            false,
        ),
        ("data: {\"choices\":[]}\n\n", false),
        ("data:\n\n", false),
        (
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"H\"}}]}\n",
            true,
        ),
        (
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\"}]}}]}\n",
            true,
        ),
        (
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n",
            true,
        ),
        (
            "data: {\"error\":null,\"choices\":[{\"text\":\"a\"}]}\n",
            true,
        ),
        ("data: [DONE]\n", true),
        ("data: x\n", true),
    ] {
        let scanner = scan([stream.as_bytes()]);
        assert_eq!(scanner.has_content(), expected, "{stream:?}");
    }
}

#[test]
fn an_endless_line_takes_no_memory() {
    let mut scanner = scan([&b"event: error\ndata: "[..]]);
    for _ in 0..1000 {
        scanner.scan(&[b'x'; 1000]);
    }
    assert!(scanner.line.capacity() <= 2 * DATA_MAX);
    assert!(!scanner.at_boundary());
}

#[test]
fn it_knows_when_it_is_inside_an_event() {
    for (stream, boundary) in [
        ("", true),
        ("event: a", false),
        ("event: a\n", false),
        ("event: a\r\ndata: b\r\n", false),
        ("event: a\r\ndata: b\r\n\r", true),
        ("event: a\r\ndata: b\r\n\r\n", true),
        ("\n\n", true),
    ] {
        assert_eq!(
            scan([stream.as_bytes()]).at_boundary(),
            boundary,
            "{stream:?}"
        );
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_how_a_stream_is_cut(
        lines in proptest::collection::vec(
            prop_oneof![
                Just("event: error"), Just("event: ping"), Just(""), Just("data: x"), Just(":"),
                Just("data: {\"error\":{\"type\":\"api_error\"}}"), Just("event"),
                Just("data: {\"error\":{\"message\":\"a longer one\",\"code\":\"x\"}}"),
                Just("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}"),
                Just("event: response.in_progress"), Just("event: content_block_start"),
            ],
            0..12,
        ),
        ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 12),
        cuts in proptest::collection::vec(1usize..9, 1..200),
    ) {
        let stream: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
        let whole = scan([stream.as_bytes()]);
        let bytewise = scan(stream.as_bytes().chunks(1));
        let mut pieces = Vec::new();
        let mut rest = stream.as_bytes();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let cut = scan(pieces);
        prop_assert_eq!(whole.error(), bytewise.error());
        prop_assert_eq!(whole.error(), cut.error());
        prop_assert_eq!(whole.at_boundary(), bytewise.at_boundary());
        prop_assert_eq!(whole.at_boundary(), cut.at_boundary());
        prop_assert_eq!(whole.has_content(), bytewise.has_content());
        prop_assert_eq!(whole.has_content(), cut.has_content());
    }
}
