//! Flags that describe a check.

use clap::{Args, ValueEnum};
use qcc_proto::v1;

use super::values;

/// How an endpoint is verified.
#[derive(Debug, Args)]
#[command(next_help_heading = "Verification")]
pub(crate) struct CheckFlags {
    /// How to find out whether an endpoint works.
    #[arg(long, value_name = "KIND", value_enum)]
    check: Option<CheckKind>,

    /// Model to ask (conversation).
    #[arg(long, value_name = "MODEL", requires = "check")]
    check_model: Option<String>,

    /// Limit on the model's answer (conversation).
    #[arg(long, value_name = "TOKENS", requires = "check")]
    check_max_tokens: Option<u32>,

    /// GET, HEAD or POST (http).
    #[arg(long, value_name = "METHOD", requires = "check")]
    check_method: Option<String>,

    /// Path and query after the base URL (http).
    #[arg(long, value_name = "PATH", requires = "check")]
    check_path: Option<String>,

    /// Statuses that pass, such as 200,204 (http).
    #[arg(long, value_name = "STATUS", value_delimiter = ',', requires = "check")]
    check_status: Vec<u32>,

    /// JSON to send with POST (http).
    #[arg(long, value_name = "JSON", requires = "check")]
    check_body: Option<String>,

    /// Before a conversation, which costs something, ask this path, which does not (conversation).
    #[arg(long, value_name = "PATH", requires = "check")]
    precheck_path: Option<String>,

    /// GET, HEAD or POST for --precheck-path.
    #[arg(long, value_name = "METHOD", requires = "precheck_path")]
    precheck_method: Option<String>,

    /// Statuses with which --precheck-path passes.
    #[arg(
        long,
        value_name = "STATUS",
        value_delimiter = ',',
        requires = "precheck_path"
    )]
    precheck_status: Vec<u32>,

    /// JSON to send with POST to --precheck-path.
    #[arg(long, value_name = "JSON", requires = "precheck_path")]
    precheck_body: Option<String>,

    /// Longest wait for an answer.
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration, requires = "check")]
    check_timeout: Option<prost_types::Duration>,
}

/// The kinds of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckKind {
    /// The model must repeat a fresh code. Costs a few tokens.
    Conversation,
    /// One HTTP request must bring an expected status.
    Http,
    /// A connection must come about.
    Tcp,
    /// Nobody is asked; a few requests find out.
    None,
}

impl CheckFlags {
    /// The check, if one is described, or the flag that does not fit its kind.
    pub(crate) fn check(self) -> Result<Option<v1::Check>, String> {
        let Some(kind) = self.check else {
            return Ok(None);
        };
        let conversation = self.check_model.is_some()
            || self.check_max_tokens.is_some()
            || self.precheck_path.is_some();
        if conversation && kind != CheckKind::Conversation {
            return Err(
                "`--check-model`, `--check-max-tokens` and `--precheck-path` belong to `--check conversation`"
                    .to_owned(),
            );
        }
        let precheck = self.precheck_path.map(|path| v1::HttpCheck {
            method: self.precheck_method.unwrap_or_default(),
            path,
            expected_statuses: self.precheck_status,
            body: self.precheck_body.unwrap_or_default(),
        });
        let http = self.check_method.is_some()
            || self.check_path.is_some()
            || self.check_body.is_some()
            || !self.check_status.is_empty();
        if http && kind != CheckKind::Http {
            return Err(
                "`--check-method`, `--check-path`, `--check-status` and `--check-body` belong to `--check http`".to_owned(),
            );
        }
        let kind = match kind {
            CheckKind::Conversation => v1::check::Kind::Conversation(v1::ConversationCheck {
                model: self.check_model.unwrap_or_default(),
                max_tokens: self.check_max_tokens,
            }),
            CheckKind::Http => v1::check::Kind::Http(v1::HttpCheck {
                method: self.check_method.unwrap_or_default(),
                path: self.check_path.unwrap_or_default(),
                expected_statuses: self.check_status,
                body: self.check_body.unwrap_or_default(),
            }),
            CheckKind::Tcp => v1::check::Kind::Tcp(v1::TcpCheck {}),
            CheckKind::None => v1::check::Kind::None(v1::NoCheck {}),
        };
        Ok(Some(v1::Check {
            timeout: self.check_timeout,
            kind: Some(kind),
            precheck,
        }))
    }
}
