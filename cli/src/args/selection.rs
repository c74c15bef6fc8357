//! Flags that say how endpoints are chosen.

use clap::{Args, ValueEnum};
use qcc_proto::v1;

use super::values;

/// How one of several endpoints is chosen, and how often another one may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct SelectionFlags {
    /// How one of several endpoints is chosen [default: priority].
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// Whether a session is kept at one endpoint [default: true].
    #[arg(long, value_name = "BOOL")]
    affinity: Option<bool>,
    /// Names of more headers that name a session; those given replace all before.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    affinity_headers: Vec<String>,
    /// What becomes of sessions whose endpoint comes back [default: return].
    #[arg(long, value_enum)]
    affinity_return_policy: Option<ReturnPolicy>,
    /// How long an endpoint takes to get its full share; 0s: it has it at once [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    slow_start: Option<prost_types::Duration>,
    /// Retries, in percent of client requests [default: 20].
    #[arg(long, value_name = "PERCENT")]
    retry_budget_percent: Option<u32>,
    /// Retries a second that are allowed in any case [default: 3].
    #[arg(long, value_name = "NUMBER")]
    retry_budget_min_per_second: Option<u32>,
    /// Most endpoints that are left alone for failing; 0: no limit [default: 0].
    #[arg(long, value_name = "PERCENT")]
    max_ejected_percent: Option<u32>,
    /// Whether the least bad endpoint is used when none is selectable [default: false].
    #[arg(long, value_name = "BOOL")]
    last_resort: Option<bool>,
}

/// How one of several endpoints is chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Strategy {
    /// The lowest priority; among equals by weight.
    Priority,
    /// By weight, whatever the priority.
    Weighted,
    /// One after the other.
    #[value(alias = "round-robin")]
    RoundRobin,
    /// Each as likely as the other.
    Random,
    /// Of two at random the less busy one.
    #[value(alias = "least-inflight")]
    LeastInflight,
    /// Of two at random the one that answers sooner.
    #[value(alias = "peak-ewma")]
    PeakEwma,
}

/// What becomes of sessions that went elsewhere.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReturnPolicy {
    /// They return.
    Return,
    /// They stay where they went.
    Stay,
}

impl SelectionFlags {
    /// Names the fields that were given.
    pub(super) fn given(&self, given: &mut impl FnMut(&'static str, bool)) {
        given("policy.strategy", self.strategy.is_some());
        given("policy.affinity.enabled", self.affinity.is_some());
        given("policy.affinity.headers", !self.affinity_headers.is_empty());
        given(
            "policy.affinity.return_policy",
            self.affinity_return_policy.is_some(),
        );
        given("policy.slow_start", self.slow_start.is_some());
        given(
            "policy.retry_budget.percent",
            self.retry_budget_percent.is_some(),
        );
        given(
            "policy.retry_budget.min_per_second",
            self.retry_budget_min_per_second.is_some(),
        );
        given(
            "policy.max_ejected_percent",
            self.max_ejected_percent.is_some(),
        );
        given("policy.last_resort", self.last_resort.is_some());
    }

    /// Writes the given values into a policy.
    pub(super) fn write(self, policy: &mut v1::ClusterPolicy) {
        policy.strategy = match self.strategy {
            Some(Strategy::Priority) => v1::Strategy::Priority,
            Some(Strategy::Weighted) => v1::Strategy::Weighted,
            Some(Strategy::RoundRobin) => v1::Strategy::RoundRobin,
            Some(Strategy::Random) => v1::Strategy::Random,
            Some(Strategy::LeastInflight) => v1::Strategy::LeastInflight,
            Some(Strategy::PeakEwma) => v1::Strategy::PeakEwma,
            None => v1::Strategy::Unspecified,
        }
        .into();
        policy.affinity = Some(v1::Affinity {
            enabled: self.affinity,
            headers: self.affinity_headers,
            return_policy: match self.affinity_return_policy {
                Some(ReturnPolicy::Return) => v1::ReturnPolicy::Return,
                Some(ReturnPolicy::Stay) => v1::ReturnPolicy::Stay,
                None => v1::ReturnPolicy::Unspecified,
            }
            .into(),
        });
        policy.slow_start = self.slow_start;
        policy.retry_budget = Some(v1::RetryBudget {
            percent: self.retry_budget_percent,
            min_per_second: self.retry_budget_min_per_second,
        });
        policy.max_ejected_percent = self.max_ejected_percent;
        policy.last_resort = self.last_resort;
    }
}
