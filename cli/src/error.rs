//! What went wrong, for a person (`error:` and `hint:`) or a program (JSON), and the exit code.

use std::{fmt, io};

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{args::Format, text};

/// Exit codes, the same for every command. `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or the answer is no.
    Failed = 1,
    /// A flag, a file or a value is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It exists already, has changed, or a precondition is not met.
    Conflict = 4,
    /// Who asks is unknown, or may not.
    Denied = 5,
    /// Not reachable, or not done in time.
    Unreachable = 6,
    /// A check found problems.
    Problems = 7,
    /// Interrupted by Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Problems => "problems",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a command ended without doing what it was asked to.
#[derive(Debug)]
pub(crate) struct Error {
    exit: Exit,
    message: String,
    hint: Option<String>,
    /// Machine-readable reason, from `google.rpc.ErrorInfo`.
    reason: Option<String>,
    /// Fields that are wrong, each with its rule, from `google.rpc.BadRequest`.
    fields: Vec<(String, String)>,
    /// The reader of stdout has gone: nothing to complain about.
    closed_pipe: bool,
}

impl Error {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            reason: None,
            fields: Vec::new(),
            closed_pipe: false,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a server's status means to a user of this program.
    pub(crate) fn from_status(status: &Status) -> Self {
        let exit = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
            Code::Ok
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Exit::Failed,
        };
        let mut error = Self::new(exit, status.message());
        if error.message.is_empty() {
            error.message = status.code().description().to_lowercase();
        }
        error.reason = status.get_details_error_info().map(|info| info.reason);
        if let Some(request) = status.get_details_bad_request() {
            error.fields = request
                .field_violations
                .into_iter()
                .map(|field| (field.field, field.description))
                .collect();
        }
        match status.code() {
            Code::Unimplemented => error
                .hint("client and server may be of different versions; compare `qcc-ctl version`"),
            Code::Aborted => {
                error.hint("somebody changed it meanwhile; read it again, then repeat")
            }
            _ if error.reason.as_deref() == Some("CONFIG_REJECTED") => {
                error.hint("nothing was changed: the configuration before it stays in use")
            }
            _ if error.reason.as_deref() == Some("NOT_RELOADABLE") => {
                error.hint("`qcc-control` and `qcc-proxy` can do it; `qcc-ctl up` cannot")
            }
            _ => error,
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        if self.closed_pipe {
            Exit::Done
        } else {
            self.exit
        }
    }

    /// Writes the error to stderr.
    pub(crate) fn print(&self, format: Format) {
        if self.closed_pipe || self.exit == Exit::Interrupted {
            return;
        }
        match format {
            Format::Json => eprintln!("{}", self.as_json()),
            Format::Table | Format::Wide | Format::Yaml | Format::Name => eprintln!("{self}"),
        }
    }

    fn as_json(&self) -> serde_json::Value {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(field, rule)| json!({ "field": field, "rule": rule }))
            .collect();
        json!({ "error": {
            "code": self.exit.word(),
            "exit_code": self.exit as i32,
            "message": self.message,
            "reason": self.reason,
            "fields": fields,
            "hint": self.hint,
        }})
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |(field, rule): &&(String, String)| {
            self.message.contains(field.as_str()) && self.message.contains(rule.as_str())
        };
        // A message that lists several fields is hard to read as one line.
        let listed = self.fields.len() > 1 && self.fields.iter().all(|field| told(&field));
        if listed {
            write!(f, "error: {} values are not valid", self.fields.len())?;
        } else {
            write!(f, "error: {}", text::clean(&self.message))?;
        }
        for (field, rule) in self.fields.iter().filter(|field| listed || !told(field)) {
            write!(f, "\n  {}: {}", text::clean(field), text::clean(rule))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", text::clean(hint))?;
        }
        Ok(())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            closed_pipe,
            ..Self::failed(format!("cannot write the answer: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_status_code_has_the_documented_exit_code() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::OutOfRange, 2),
            (Code::NotFound, 3),
            (Code::AlreadyExists, 4),
            (Code::Aborted, 4),
            (Code::FailedPrecondition, 4),
            (Code::Unauthenticated, 5),
            (Code::PermissionDenied, 5),
            (Code::Unavailable, 6),
            (Code::DeadlineExceeded, 6),
            (Code::Cancelled, 6),
            (Code::Internal, 1),
            (Code::Unimplemented, 1),
            (Code::ResourceExhausted, 1),
        ] {
            assert_eq!(
                Error::from_status(&Status::new(code, "m")).exit() as i32,
                exit,
                "{code:?}"
            );
        }
    }

    #[test]
    fn details_are_shown_as_fields_with_rules() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_FIELD", "qcc", std::collections::HashMap::new());
        details.add_bad_request_violation("endpoint.weight", "must be 1-1000");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "invalid endpoint\u{1b}[31m",
            details,
        );
        let error = Error::from_status(&status).hint("look it up");
        assert_eq!(
            error.to_string(),
            "error: invalid endpoint[31m\n  endpoint.weight: must be 1-1000\nhint: look it up"
        );
        let json = error.as_json();
        assert_eq!(json["error"]["reason"], "INVALID_FIELD");
        assert_eq!(json["error"]["exit_code"], 2);
        assert_eq!(json["error"]["fields"][0]["field"], "endpoint.weight");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let error = Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.exit(), Exit::Done);
    }
}
