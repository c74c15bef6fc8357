//! What the product promises, shown with real processes and real sockets. Each
//! test tells one story; each module is one theme.

mod blame;
mod broken_streams;
mod clients;
mod command_line;
mod contract;
mod credentials;
mod data;
mod explanation;
mod foreign;
mod harness;
mod history;
mod kept_view;
mod listeners;
mod metrics;
mod outage;
mod passing;
mod pauses;
mod reloading;
mod reports;
mod secrets;
mod shared_connections;
mod starting;
mod stopping;
mod streams;
mod suspects;
mod verification;
mod versions;
mod watching;
