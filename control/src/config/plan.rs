//! What another configuration changes, and what of it has to wait for a restart.

use qcc_proto::reload::Plan;

use super::{Config, Daemon};

/// Compares a configuration with the one in use. Returns what becomes of each setting, and
/// what would be used: the new one, with all that waits for a restart as it is.
///
/// Every setting is named here: the compiler asks for those that are added.
pub(crate) fn plan(used: &Daemon, mut new: Daemon) -> (Plan, Daemon) {
    let mut plan = Plan::default();
    let was = &used.config;
    let Daemon {
        config,
        apply_file,
        insecure_listen,
        check_config: _,
        log,
        log_format,
    } = &mut new;
    let Config {
        listen,
        allowed_hosts,
        tls,
        upstream_roots,
        data_dir,
        seal_key_file,
        apply: _, // `apply_file`
        ready_file,
    } = config;
    plan.fixed("listen", &was.listen, listen);
    plan.fixed("data_dir", &was.data_dir, data_dir);
    plan.fixed("seal_key_file", &was.seal_key_file, seal_key_file);
    plan.fixed("apply", &used.apply_file, apply_file);
    plan.fixed("ready_file", &was.ready_file, ready_file);
    plan.fixed("log_format", &used.log_format, log_format);
    plan.pair(["tls_cert", "tls_key"], &was.tls, tls);
    // It is about `listen` alone, which stays.
    plan.reloadable("insecure_listen", &used.insecure_listen, insecure_listen);
    plan.reloadable("allow_host", &was.allowed_hosts, allowed_hosts);
    plan.reloadable("upstream_ca_file", &was.upstream_roots, upstream_roots);
    plan.reloadable("log", &used.log, log);
    (plan, new)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::Args, *};

    fn of(flags: &[&str]) -> Daemon {
        let always = ["qcc-control", "--data-dir", "/data"];
        let args = Args::try_parse_from([&always[..], flags].concat()).unwrap();
        args.resolve().unwrap()
    }

    #[test]
    fn names_and_log_count_at_once_and_where_things_are_does_not() {
        let used = of(&[]);
        let (same, _) = plan(&used, of(&[]));
        assert_eq!(same.unchanged.len(), 12); // All that a file may say.
        let mut new = of(&[
            "--listen",
            "127.0.0.1:1",
            "--allow-host",
            "a",
            "--log",
            "warn",
        ]);
        new.config.data_dir = "/other".into();
        let (plan, next) = plan(&used, new);
        assert_eq!(plan.applied, ["allow_host", "log"]);
        assert_eq!(plan.needs_restart, ["listen", "data_dir"]);
        assert_eq!(next.config.data_dir, used.config.data_dir);
        assert_eq!(next.config.allowed_hosts, ["a"]);
    }
}
