//! A configuration that is read again while its program runs.
//!
//! - [`Plan`]: which settings another configuration changes, and which of them have to wait
//!   for a restart. It decides; it does nothing.
//! - [`Rejected`]: why a configuration is not taken; [`Misread`]: that its file cannot be read.
//! - [`Record`]: how reloads have gone, for log, status and metrics.

use std::{
    fmt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use crate::{
    exposition::{Kind, Page},
    tls::Pair,
    v1,
};

/// What becomes of each setting, by its name in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changed, and to be used from now on.
    pub applied: Vec<&'static str>,
    /// Changed, and not to be used before a restart.
    pub needs_restart: Vec<&'static str>,
    /// As before.
    pub unchanged: Vec<&'static str>,
}

impl Plan {
    /// A setting that may change while the program runs.
    pub fn reloadable<T: PartialEq>(&mut self, key: &'static str, used: &T, new: &T) {
        match used == new {
            true => self.unchanged.push(key),
            false => self.applied.push(key),
        }
    }

    /// A setting that may not: `new` becomes what is used, as that is what stays.
    pub fn fixed<T: PartialEq + Clone>(&mut self, key: &'static str, used: &T, new: &mut T) {
        if used == new {
            return self.unchanged.push(key);
        }
        self.needs_restart.push(key);
        new.clone_from(used);
    }

    /// A listener's certificate and its key. Another one can be shown at any time, but
    /// whether there is TLS at all is settled when the listener is made.
    pub fn pair(
        &mut self,
        [cert_key, key_key]: [&'static str; 2],
        used: &Option<Pair>,
        new: &mut Option<Pair>,
    ) {
        match (used, &*new) {
            (Some(used), Some(new)) => {
                self.reloadable(cert_key, &used.cert, &new.cert);
                self.reloadable(key_key, &used.key, &new.key);
            }
            (None, None) => self.unchanged.extend([cert_key, key_key]),
            (None, Some(_)) | (Some(_), None) => {
                self.needs_restart.extend([cert_key, key_key]);
                new.clone_from(used);
            }
        }
    }

    /// A setting whose file has other content than that in use, whatever its name.
    pub fn has_new_content(&mut self, key: &'static str) {
        if let Some(at) = self.unchanged.iter().position(|it| *it == key) {
            self.unchanged.remove(at);
            self.applied.push(key);
        }
    }

    /// Returns it as an answer; `revision` is that of the configuration that is used then.
    pub fn to_proto(&self, revision: u64) -> v1::ConfigReload {
        v1::ConfigReload {
            applied: owned(&self.applied),
            needs_restart: owned(&self.needs_restart),
            unchanged: u32::try_from(self.unchanged.len()).unwrap_or(u32::MAX),
            revision,
        }
    }
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|&key| key.to_owned()).collect()
}

/// Why a configuration is not taken. Holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejected {
    /// The whole of it, in words.
    pub message: String,
    /// The file that is wrong. Empty if it is not known which.
    pub file: String,
    /// The setting that is wrong. Empty if it is not known which.
    pub field: String,
    /// What it must be. Empty if there is no rule, but a file that cannot be read.
    pub rule: String,
}

impl Rejected {
    /// Names the file that was read, where an error does not name another.
    #[must_use]
    pub fn of_file(mut self, path: Option<&Path>) -> Self {
        if let Some(path) = path
            && self.file.is_empty()
        {
            self.file = path.display().to_string();
        }
        self
    }
}

impl Rejected {
    /// Returns it for the `google.rpc.ErrorInfo` of an answer: what is known.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        [
            ("file", &self.file),
            ("field", &self.field),
            ("rule", &self.rule),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, value.clone()))
        .collect()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // Where the message does not say so.
        if !self.field.is_empty() && !self.message.contains(&self.field) {
            write!(f, " ({})", self.field)?;
        }
        if !self.file.is_empty() && !self.message.contains(&self.file) {
            write!(f, ", in `{}`", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

/// What is wrong with the text of a TOML file. Shows nothing of it but the names of
/// settings: what stands in a wrong place may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// The line, from 1, and the key there, or nothing where there is none; as far as that
    /// is known.
    place: Option<(usize, String)>,
    /// What the place asks for.
    rule: String,
}

impl Misread {
    /// Takes a reader's error: what it says of itself (`message`, which may quote a value), and
    /// where in the text that is.
    pub fn new(text: &str, at: Option<usize>, message: &str) -> Self {
        Self {
            place: at.and_then(|at| place(text, at)),
            rule: rule_of(message),
        }
    }

    /// Returns it as a reason not to take the configuration.
    pub fn rejected(&self, file: Option<&Path>) -> Rejected {
        let rejected = Rejected {
            message: match &self.place {
                Some((line, _)) => format!("line {line}: {}", self.rule),
                None => self.rule.clone(),
            },
            field: self.place.clone().unwrap_or_default().1,
            rule: self.rule.clone(),
            file: String::new(),
        };
        rejected.of_file(file)
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((line, key)) if !key.is_empty() && !self.rule.contains(key) => {
                write!(f, "line {line}: `{key}`: {}", self.rule)
            }
            Some((line, _)) => write!(f, "line {line}: {}", self.rule),
            None => f.write_str(&self.rule),
        }
    }
}

/// Returns the number of the line at an offset of a TOML file, from 1, and the key that
/// stands there, or nothing where there is none: what is not a key may be anything.
fn place(text: &str, at: usize) -> Option<(usize, String)> {
    let before = text.get(..at)?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let key = text[start..].split(['\n', '=']).next()?.trim();
    let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let key = if is_key { key } else { "" };
    Some((before.split('\n').count(), key.to_owned()))
}

/// Returns what a TOML reader's error asks for, without the value that it met: what stands in
/// a wrong place may be a secret.
fn rule_of(message: &str) -> String {
    let is_about_a_value = ["invalid type: ", "invalid value: ", "unknown variant "]
        .iter()
        .any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ") {
        Some((_, "u8" | "u16" | "u32" | "u64" | "usize")) => "must be a whole number".to_owned(),
        Some((_, expected)) if is_about_a_value => format!("must be {expected}"),
        None if is_about_a_value => "is of the wrong type".to_owned(),
        Some(_) | None => message.to_owned(),
    }
}

/// How reloads have gone.
#[derive(Debug)]
pub struct Record(Mutex<State>);

#[derive(Debug)]
struct State {
    revision: u64,
    loaded: SystemTime,
    needs_restart: Vec<&'static str>,
    has_failed: bool,
    failure: Option<(SystemTime, String)>,
}

impl Record {
    /// A configuration with which a program starts.
    pub fn new(now: SystemTime) -> Self {
        Self(Mutex::new(State {
            revision: 1,
            loaded: now,
            needs_restart: Vec::new(),
            has_failed: false,
            failure: None,
        }))
    }

    /// The number of the configuration in use.
    pub fn revision(&self) -> u64 {
        self.state().revision
    }

    /// A reload has succeeded, which the log says too. Returns the number of what is in use
    /// now.
    pub fn succeeded(&self, now: SystemTime, plan: &Plan) -> u64 {
        let revision = {
            let mut state = self.state();
            state.revision += 1;
            state.loaded = now;
            state.needs_restart.clone_from(&plan.needs_restart);
            state.has_failed = false;
            state.revision
        };
        let (applied, unchanged) = (plan.applied.join(", "), plan.unchanged.len());
        info!(revision, applied, unchanged, "configuration reloaded");
        if !plan.needs_restart.is_empty() {
            let settings = plan.needs_restart.join(", ");
            warn!(settings, "these changes need a restart");
        }
        revision
    }

    /// A reload has failed, which the log says too.
    pub fn failed(&self, now: SystemTime, reason: &Rejected) {
        {
            let mut state = self.state();
            state.has_failed = true;
            state.failure = Some((now, reason.to_string()));
        }
        let (file, field, rule) = (&reason.file, &reason.field, &reason.rule);
        warn!(file, field, rule, error = %reason, "configuration not reloaded; the one in use stays");
    }

    /// Returns it for people.
    pub fn to_proto(&self) -> v1::ConfigStatus {
        let state = self.state();
        let (time, failure) = state.failure.clone().unzip();
        v1::ConfigStatus {
            revision: state.revision,
            load_time: Some(state.loaded.into()),
            needs_restart: owned(&state.needs_restart),
            last_reload_failed: state.has_failed,
            last_failure_time: time.map(Into::into),
            last_failure: failure.unwrap_or_default(),
        }
    }

    /// Writes it for Prometheus, under names that say so: whether it succeeded, when, and how many settings wait.
    pub fn write(&self, page: &mut Page, [successful, timestamp, restart]: [&'static str; 3]) {
        let state = self.state();
        page.gauge(
            successful,
            "Whether the configuration was read without an error the last time.",
            !state.has_failed,
        );
        page.gauge(
            timestamp,
            "When the configuration in use was read, since the epoch.",
            state.loaded.duration_since(UNIX_EPOCH).unwrap_or_default(),
        );
        page.family(
            restart,
            Kind::Gauge,
            "Settings that differed at the last reload, and count only after a restart.",
        )
        .sample(&[], state.needs_restart.len() as u64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after any panic: nothing in here can.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> Option<Pair> {
        Some(Pair {
            cert: format!("{name}.pem").into(),
            key: "key".into(),
        })
    }

    #[test]
    fn what_cannot_change_stays_as_it_is_and_is_named() {
        let mut plan = Plan::default();
        let (mut listen, mut id) = (2, "a");
        plan.fixed("listen", &1, &mut listen);
        plan.fixed("id", &"a", &mut id);
        plan.reloadable("requests_max", &1, &2);
        plan.reloadable("client_keys_file", &"/a", &"/a");
        assert_eq!(listen, 1);
        plan.has_new_content("client_keys_file");
        plan.has_new_content("requests_max"); // Known already.
        assert_eq!(plan.applied, ["requests_max", "client_keys_file"]);
        assert_eq!(plan.needs_restart, ["listen"]);
        assert_eq!(plan.unchanged, ["id"]);
    }

    #[test]
    fn another_certificate_can_be_shown_but_tls_not_be_switched() {
        const KEYS: [&str; 2] = ["tls_cert", "tls_key"];
        for (used, new, applied, stays) in [
            (pair("a"), pair("b"), &["tls_cert"][..], pair("b")),
            (pair("a"), None, &[], pair("a")),
            (None, pair("a"), &[], None),
            (None, None, &[], None),
        ] {
            let (mut plan, mut effective) = (Plan::default(), new.clone());
            plan.pair(KEYS, &used, &mut effective);
            assert_eq!((&plan.applied[..], &effective), (applied, &stays));
            let is_switched = used.is_some() != new.is_some();
            let waiting: &[&str] = if is_switched { &KEYS } else { &[] };
            assert_eq!(plan.needs_restart, waiting);
        }
    }

    #[test]
    fn a_rule_shows_no_value() {
        use std::collections::BTreeMap;

        let number = |text| toml::from_str::<BTreeMap<String, usize>>(text).unwrap_err();
        let flag = |text| toml::from_str::<BTreeMap<String, bool>>(text).unwrap_err();
        for (error, expected) in [
            (number("a = \"sk-secret\""), "must be a whole number"),
            (
                number("a = \"sk, expected \\\"\""),
                "must be a whole number",
            ),
            (number("a = -1"), "must be a whole number"),
            (flag("a = \"sk-secret\""), "must be a boolean"),
            (flag("a = [\"sk-secret\"]"), "must be a boolean"),
        ] {
            assert_eq!(rule_of(error.message()), expected, "{}", error.message());
        }
        assert_eq!(
            rule_of("unknown variant `sk-secret`, expected `human` or `json`"),
            "must be `human` or `json`"
        );
        assert_eq!(
            rule_of("unknown field `x`, expected `y`"),
            "unknown field `x`, expected `y`"
        );
    }

    #[test]
    fn a_misread_file_is_told_of_by_line_key_and_rule() {
        let text = "log = \"info\"\nrequests_max = \"sk-secret\"\n";
        let error = toml::from_str::<std::collections::BTreeMap<String, usize>>(
            &text.replace("\"info\"", "1 # {}"),
        );
        let error = error.unwrap_err();
        let at = text.find("\"sk-");
        let misread = Misread::new(text, at, error.message());
        let told = "line 2: `requests_max`: must be a whole number";
        assert_eq!(misread.to_string(), told);
        let rejected = misread.rejected(Some(Path::new("/etc/a.toml")));
        assert_eq!(
            rejected.to_string(),
            "line 2: must be a whole number (requests_max), in `/etc/a.toml`"
        );
        let nowhere = Misread::new(text, None, "duplicate key");
        assert_eq!(nowhere.to_string(), "duplicate key");
        assert!(!format!("{misread:?}{rejected:?}").contains("sk-secret"));
    }

    #[test]
    fn a_failure_is_remembered_and_a_success_ends_it() {
        let at = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let record = Record::new(at(1));
        let reason = Rejected {
            message: "must be at least 1".into(),
            field: "requests_max".into(),
            ..Rejected::default()
        };
        record.failed(at(2), &reason.of_file(Some(Path::new("/etc/a.toml"))));
        let status = record.to_proto();
        assert_eq!((status.revision, status.last_reload_failed), (1, true));
        assert_eq!(
            status.last_failure,
            "must be at least 1 (requests_max), in `/etc/a.toml`"
        );
        let plan = Plan {
            needs_restart: vec!["listen"],
            ..Plan::default()
        };
        assert_eq!(record.succeeded(at(3), &plan), 2);
        let status = record.to_proto();
        assert_eq!(status.needs_restart, ["listen"]);
        assert_eq!(status.load_time, Some(at(3).into()));
        assert!(!status.last_reload_failed);
        assert_eq!(status.last_failure_time, Some(at(2).into()));
        let mut page = Page::default();
        record.write(&mut page, ["ok", "when", "waiting"]);
        let text = page.into_text();
        assert!(
            text.contains("\nok 1\n") && text.contains("\nwhen 3\n"),
            "{text}"
        );
        assert!(text.contains("\nwaiting 1\n"), "{text}");
    }
}
