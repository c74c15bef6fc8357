//! Values with ranges, and checks, which endpoints and policies have in common.

use std::{ops::RangeInclusive, time::Duration};

use qcc_proto::{duration, v1};

use super::{MINUTE, TEN_MS, Violations, base_url};
use crate::registry::{CHECK_MAX_TOKENS, CHECK_TIMEOUT, Check, CheckKind, HttpCheck};

/// Reads values with ranges, noting those outside.
pub(super) struct Reader<'a> {
    pub(super) prefix: &'a str,
    pub(super) violations: &'a mut Violations,
}

impl Reader<'_> {
    pub(super) fn number(
        &mut self,
        field: &str,
        value: Option<u32>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            self.refuse(field, format!("must be {}-{}", range.start(), range.end()));
        }
        value
    }

    pub(super) fn span(
        &mut self,
        field: &str,
        value: Option<prost_types::Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = value else { return default };
        match duration::from_proto(&value) {
            Some(span) if range.contains(&span) => span,
            _ => {
                let (from, to) = (
                    duration::format(*range.start()),
                    duration::format(*range.end()),
                );
                self.refuse(field, format!("must be {from} to {to}"));
                default
            }
        }
    }

    pub(super) fn check(&mut self, field: &str, check: &v1::Check) -> Check {
        use v1::check::Kind;
        let kind = match &check.kind {
            Some(Kind::Conversation(conversation)) => {
                let model = &conversation.model;
                if model.len() > 256 || model.chars().any(char::is_control) {
                    self.refuse(
                        &format!("{field}.conversation.model"),
                        "must be at most 256 characters",
                    );
                }
                CheckKind::Conversation {
                    model: (!model.is_empty()).then(|| model.clone()),
                    max_tokens: self.number(
                        &format!("{field}.conversation.max_tokens"),
                        conversation.max_tokens,
                        CHECK_MAX_TOKENS,
                        1..=100_000,
                    ),
                }
            }
            Some(Kind::Http(http)) => {
                CheckKind::Http(self.http_check(&format!("{field}.http"), http))
            }
            Some(Kind::Tcp(_)) => CheckKind::Tcp,
            Some(Kind::None(_)) => CheckKind::None,
            None => {
                self.refuse(field, "must name a kind: conversation, http, tcp or none");
                CheckKind::None
            }
        };
        let precheck = check.precheck.as_ref().map(|precheck| {
            if !matches!(kind, CheckKind::Conversation { .. }) {
                self.refuse(
                    &format!("{field}.precheck"),
                    "must only be given together with conversation",
                );
            }
            self.http_check(&format!("{field}.precheck"), precheck)
        });
        let timeout = format!("{field}.timeout");
        Check {
            kind,
            precheck,
            timeout: self.span(&timeout, check.timeout, CHECK_TIMEOUT, TEN_MS..=10 * MINUTE),
        }
    }

    fn http_check(&mut self, field: &str, http: &v1::HttpCheck) -> HttpCheck {
        let method = if http.method.is_empty() {
            "GET"
        } else {
            http.method.as_str()
        };
        if !["GET", "HEAD", "POST"].contains(&method) {
            self.refuse(&format!("{field}.method"), "must be GET, HEAD or POST");
        }
        let path = if http.path.is_empty() {
            "/v1/models"
        } else {
            http.path.as_str()
        };
        if !path.starts_with('/')
            || path.len() > base_url::URL_BYTES_MAX
            || base_url::has_dot_segments(path)
            || path.contains('#')
            || path.parse::<http::uri::PathAndQuery>().is_err()
        {
            self.refuse(
                &format!("{field}.path"),
                "must be a path that begins with `/`, without dot segments or fragment",
            );
        }
        let statuses: Vec<u16> = http
            .expected_statuses
            .iter()
            .filter_map(|status| u16::try_from(*status).ok())
            .filter(|status| (200..=599).contains(status))
            .collect();
        if statuses.len() != http.expected_statuses.len() || statuses.len() > 16 {
            self.refuse(
                &format!("{field}.expected_statuses"),
                "must be at most 16 statuses of 200-599",
            );
        }
        if !http.body.is_empty() && (method != "POST" || http.body.len() > 64 * 1024) {
            self.refuse(
                &format!("{field}.body"),
                "must be at most 64 KiB, and for POST only",
            );
        }
        HttpCheck {
            method: method.into(),
            path: path.into(),
            expected_statuses: if statuses.is_empty() {
                vec![200]
            } else {
                statuses
            },
            body: http.body.clone(),
        }
    }

    pub(super) fn refuse(&mut self, field: &str, rule: impl Into<String>) {
        self.violations.add(format!("{}{field}", self.prefix), rule);
    }
}
