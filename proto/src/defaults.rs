//! What unset fields of a `ClusterPolicy` mean: to the control plane, and to a data plane
//! whose control plane is too old to know the field. Fields are explained in the contract.
#![allow(missing_docs)]

use std::time::Duration;

pub const ATTEMPTS_MAX: u32 = 3;
pub const MAX_FAILURES: u32 = 3;
pub const UNPROVEN_CONCURRENCY: u32 = 4;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the 300 s after which clients give up on a silent stream.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(240);
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);

pub const OVERLOADED_COOL_DOWN: Duration = Duration::from_secs(10);
pub const RATE_LIMITED_COOL_DOWN: Duration = Duration::from_secs(600);
pub const MAX_COOL_DOWN: Duration = Duration::from_secs(600);

/// As long as a request's own first byte may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Six characters need few tokens; reasoning models need some before they answer.
pub const CHECK_MAX_TOKENS: u32 = 64;

pub const VERIFY_FIRST: Duration = Duration::from_secs(5);
pub const VERIFY_MAX: Duration = Duration::from_secs(60);
pub const VERIFY_AUTH_MAX: Duration = Duration::from_secs(300);
pub const VERIFY_PER_HOUR_MAX: u32 = 60;

pub const CORROBORATION_WINDOW: Duration = Duration::from_secs(30);
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
pub const AFFINITY: bool = true;
pub const SLOW_START: Duration = Duration::from_secs(30);
pub const RETRY_BUDGET_PERCENT: u32 = 20;
pub const RETRY_BUDGET_MIN_PER_SECOND: u32 = 3;
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(2);
pub const MAX_EJECTED_PERCENT: u32 = 0;
pub const LAST_RESORT: bool = false;
pub const EXPOSE_HEADERS: bool = true;

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../qcc/v1/cluster.proto");

    /// The comment on a field, in one line.
    fn comment(message: &str, field: &str) -> String {
        let message = format!("\nmessage {message} {{\n");
        let (_, body) = CONTRACT.split_once(&message).expect("the message");
        let (above, _) = body.split_once(&format!(" {field} = ")).expect("the field");
        let lines = above.lines().rev().skip(1).map(str::trim);
        let mut lines: Vec<_> = lines.map_while(|line| line.strip_prefix("// ")).collect();
        lines.reverse();
        lines.join(" ")
    }

    /// A span in each way in which the contract writes it.
    fn span(span: Duration) -> [String; 2] {
        let seconds = span.as_secs();
        [format!("{seconds} s"), format!("{} min", seconds / 60)]
    }

    fn number(number: u32) -> [String; 2] {
        [number.to_string(), format!("{number} tokens")]
    }

    fn switch(switch: bool) -> [String; 2] {
        [switch.to_string(), String::new()]
    }

    #[test]
    fn the_contract_states_each_of_them() {
        for (path, ways) in [
            ("attempts_max", number(ATTEMPTS_MAX)),
            ("max_failures", number(MAX_FAILURES)),
            ("unproven_concurrency", number(UNPROVEN_CONCURRENCY)),
            ("Timeouts.connect", span(CONNECT_TIMEOUT)),
            ("Timeouts.first_byte", span(FIRST_BYTE_TIMEOUT)),
            ("Timeouts.idle", span(IDLE_TIMEOUT)),
            ("Timeouts.total", span(TOTAL_TIMEOUT)),
            ("CoolDowns.overloaded", span(OVERLOADED_COOL_DOWN)),
            ("CoolDowns.rate_limited", span(RATE_LIMITED_COOL_DOWN)),
            ("CoolDowns.max", span(MAX_COOL_DOWN)),
            ("Check.timeout", span(CHECK_TIMEOUT)),
            ("ConversationCheck.max_tokens", number(CHECK_MAX_TOKENS)),
            ("VerificationSchedule.first", span(VERIFY_FIRST)),
            ("VerificationSchedule.max", span(VERIFY_MAX)),
            ("VerificationSchedule.auth_max", span(VERIFY_AUTH_MAX)),
            (
                "VerificationSchedule.per_hour_max",
                number(VERIFY_PER_HOUR_MAX),
            ),
            ("corroboration_window", span(CORROBORATION_WINDOW)),
            ("queue_timeout", span(QUEUE_TIMEOUT)),
            ("Affinity.enabled", switch(AFFINITY)),
            ("slow_start", span(SLOW_START)),
            ("RetryBudget.percent", number(RETRY_BUDGET_PERCENT)),
            (
                "RetryBudget.min_per_second",
                number(RETRY_BUDGET_MIN_PER_SECOND),
            ),
            ("hold_timeout", span(HOLD_TIMEOUT)),
            ("max_ejected_percent", number(MAX_EJECTED_PERCENT)),
            ("last_resort", switch(LAST_RESORT)),
            ("expose_headers", switch(EXPOSE_HEADERS)),
        ] {
            let (message, field) = path.split_once('.').unwrap_or(("ClusterPolicy", path));
            let comment = comment(message, field).to_lowercase();
            let (_, stated) = comment.split_once("default ").expect("a default");
            let (stated, _) = stated.split_once(['.', ':', ';']).expect("its end");
            assert!(ways.iter().any(|way| way == stated), "{path}: {stated}");
        }
    }
}
