//! What another configuration changes, and what of it has to wait for a restart.

use qcc_proto::reload::Plan;

use super::{Config, Invocation};

/// Compares a configuration with the one in use. Returns what becomes of each setting, and
/// what would be used: the new one, with all that waits for a restart as it is.
///
/// Every setting is named here: the compiler asks for those that are added.
pub(crate) fn plan(used: &Invocation, mut new: Invocation) -> (Plan, Invocation) {
    let mut plan = Plan::default();
    let was = &used.config;
    let Invocation {
        config,
        log,
        log_format,
        check_only: _,
    } = &mut new;
    let Config {
        listen,
        admin_listen,
        allowed_hosts,
        tls,
        admin_tls,
        client_keys_file,
        control_urls,
        control_roots,
        upstream_roots,
        cluster,
        id,
        insecure_listen,
        ready_file,
        view_file,
        is_default_view_file,
        view_key_file,
        drain_timeout,
        client_stall_timeout,
        client_idle_timeout,
        header_read_timeout,
        body_idle_timeout,
        connections_max,
        connections_per_address_max,
        idle_connections_max,
        requests_max,
        waiting_max,
        replay_max_bytes,
        replay_total_bytes,
        body_max_bytes,
        reports_max,
    } = config;

    // Who listens where, who the proxy is, and what was made for that.
    plan.fixed("listen", &was.listen, listen);
    plan.fixed("admin_listen", &was.admin_listen, admin_listen);
    plan.fixed("control", &was.control_urls, control_urls);
    plan.fixed("cluster", &was.cluster, cluster);
    plan.fixed("id", &was.id, id);
    plan.fixed("ready_file", &was.ready_file, ready_file);
    if was.is_default_view_file && *is_default_view_file {
        view_file.clone_from(&was.view_file); // It follows from what was said above.
    }
    plan.fixed("view_file", &was.view_file, view_file);
    *is_default_view_file = was.is_default_view_file;
    plan.fixed("view_key_file", &was.view_key_file, view_key_file);
    plan.fixed("reports_max", &was.reports_max, reports_max);
    plan.fixed("log_format", &used.log_format, log_format);
    plan.pair(["tls_cert", "tls_key"], &was.tls, tls);
    plan.pair(
        ["admin_tls_cert", "admin_tls_key"],
        &was.admin_tls,
        admin_tls,
    );

    plan.reloadable("insecure_listen", &was.insecure_listen, insecure_listen);
    plan.reloadable("allow_host", &was.allowed_hosts, allowed_hosts);
    plan.reloadable("client_keys_file", &was.client_keys_file, client_keys_file);
    plan.reloadable("ca_file", &was.control_roots, control_roots);
    plan.reloadable("upstream_ca_file", &was.upstream_roots, upstream_roots);
    plan.reloadable("drain_timeout", &was.drain_timeout, drain_timeout);
    plan.reloadable(
        "client_stall_timeout",
        &was.client_stall_timeout,
        client_stall_timeout,
    );
    plan.reloadable(
        "client_idle_timeout",
        &was.client_idle_timeout,
        client_idle_timeout,
    );
    plan.reloadable(
        "header_read_timeout",
        &was.header_read_timeout,
        header_read_timeout,
    );
    plan.reloadable(
        "body_idle_timeout",
        &was.body_idle_timeout,
        body_idle_timeout,
    );
    plan.reloadable("connections_max", &was.connections_max, connections_max);
    plan.reloadable(
        "connections_per_address_max",
        &was.connections_per_address_max,
        connections_per_address_max,
    );
    plan.reloadable(
        "idle_connections_max",
        &was.idle_connections_max,
        idle_connections_max,
    );
    plan.reloadable("requests_max", &was.requests_max, requests_max);
    plan.reloadable("waiting_max", &was.waiting_max, waiting_max);
    plan.reloadable("replay_max_bytes", &was.replay_max_bytes, replay_max_bytes);
    plan.reloadable(
        "replay_total_bytes",
        &was.replay_total_bytes,
        replay_total_bytes,
    );
    plan.reloadable("body_max_bytes", &was.body_max_bytes, body_max_bytes);
    plan.reloadable("log", &used.log, log);
    (plan, new)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::{Args, Error, File, keeps_protection},
        *,
    };

    fn of(file: &str) -> Invocation {
        let args = Args::try_parse_from(["qcc-proxy"]).unwrap();
        args.merge(File::parse(file).unwrap()).unwrap()
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let (plan, next) = plan(&of("cluster = 'a'"), of("cluster = 'a'"));
        assert_eq!((plan.applied.len(), plan.needs_restart.len()), (0, 0));
        // All that a file may say, but `no_view_file`, which is about `view_file`.
        assert_eq!(plan.unchanged.len(), 33);
        assert_eq!(next.config.cluster, "a");
    }

    #[test]
    fn limits_count_at_once_and_who_we_are_does_not() {
        let new = "
            listen = '127.0.0.1:1'
            cluster = 'b'
            control = 'http://c:3'
            requests_max = 5
            drain_timeout = '1s'
            log = 'debug'
            log_format = 'json'";
        let (used, new) = (of(""), of(new));
        let (plan, next) = plan(&used, new);
        assert_eq!(plan.applied, ["drain_timeout", "requests_max", "log"]);
        // The view's file goes by cluster, port and fleet.
        let waiting = ["listen", "control", "cluster", "log_format"];
        assert_eq!(plan.needs_restart, waiting);
        assert_eq!(next.config.requests_max, 5);
        assert_eq!(next.config.listen, used.config.listen);
        assert_eq!(next.config.view_file, used.config.view_file);
        let (again, _) = super::plan(&next, of("requests_max = 5"));
        assert_eq!(again.applied, ["drain_timeout", "log"]);
    }

    #[test]
    fn what_makes_an_open_listener_safe_is_not_taken_from_it() {
        let mut used = of("");
        used.config.listen = "0.0.0.0:7860".parse().unwrap();
        used.config.client_keys_file = Some("/keys".into());
        let refused = |change: &dyn Fn(&mut Invocation)| {
            let mut new = of("");
            change(&mut new);
            let (_, next) = plan(&used, new);
            keeps_protection(&used.config, &next.config).is_err()
        };
        // It listens here only, it says, but not before a restart.
        assert!(refused(&|_| ()));
        assert!(!refused(&|new| new.config.insecure_listen = true));
        assert!(!refused(
            &|new| new.config.client_keys_file = Some("/others".into())
        ));
        used.config.listen = "127.0.0.1:7860".parse().unwrap();
        let (_, next) = plan(&used, of(""));
        keeps_protection(&used.config, &next.config).unwrap();
    }

    #[test]
    fn the_refusal_says_what_is_missing() {
        let mut used = of("").config;
        used.listen = "0.0.0.0:7860".parse().unwrap();
        used.client_keys_file = Some("/keys".into());
        let mut next = used.clone();
        next.client_keys_file = None;
        let error = keeps_protection(&used, &next).unwrap_err();
        assert!(matches!(error, Error::InsecureListen { key: "listen", .. }));
        assert_eq!(error.rejected().field, "listen");
    }
}
