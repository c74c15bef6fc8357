//! `qcc-ctl reload` and `qcc-ctl proxy reload`: the configuration, read again.

use qcc_proto::v1::{
    self, control_service_client::ControlServiceClient,
    proxy_admin_service_client::ProxyAdminServiceClient,
};

use super::{Answer, Context, missing};
use crate::{
    args::whole::Reload,
    error::Error,
    table::{Cell, Tone},
    text,
};

/// Has the control plane read its configuration again.
pub(super) async fn control(args: &Reload, context: &Context) -> Result<Answer, Error> {
    let request = v1::ReloadControlConfigRequest {
        validate_only: args.dry_run,
    };
    let response = context.control.call(request, async |c, q| {
        ControlServiceClient::new(c).reload_control_config(q).await
    });
    let reload = response.await?.reload.ok_or_else(|| missing("reload"))?;
    show(&reload, args, "control", context)
}

/// Has the proxy read its configuration again.
pub(super) async fn proxy(args: &Reload, context: &Context) -> Result<Answer, Error> {
    let request = v1::ReloadProxyConfigRequest {
        validate_only: args.dry_run,
    };
    let response = context.proxy.call(request, async |c, q| {
        ProxyAdminServiceClient::new(c).reload_proxy_config(q).await
    });
    let reload = response.await?.reload.ok_or_else(|| missing("reload"))?;
    show(&reload, args, "proxy", context)
}

fn show(
    reload: &v1::ConfigReload,
    args: &Reload,
    name: &str,
    context: &Context,
) -> Result<Answer, Error> {
    let people = || context.output.properties(&properties(reload, args.dry_run));
    let document = ("ConfigReload", reload);
    context.output.one(document, name.to_owned(), people)?;
    Ok(Answer::Done)
}

fn properties(reload: &v1::ConfigReload, is_dry_run: bool) -> Vec<(&'static str, Cell)> {
    let done = if is_dry_run { "would apply" } else { "applied" };
    let waiting = match reload.needs_restart.is_empty() {
        true => text::NOTHING.into(),
        false => Cell::new(list(&reload.needs_restart), Tone::Doubtful),
    };
    vec![
        (done, list(&reload.applied).into()),
        ("needs a restart", waiting),
        (
            "unchanged",
            text::plural(reload.unchanged, "setting").into(),
        ),
        ("configuration", reload.revision.to_string().into()),
    ]
}

fn list(settings: &[String]) -> String {
    text::or_nothing(&settings.join(", "))
}

/// How a program's configuration stands, for its status.
pub(super) fn standing(config: Option<&v1::ConfigStatus>) -> Option<Cell> {
    let config = config?; // Unset by programs that do not say so.
    let read = text::since(std::time::SystemTime::now(), config.load_time.as_ref());
    let mut standing = format!("{}, read {read} ago", config.revision);
    if !config.needs_restart.is_empty() {
        let settings = text::clean(&config.needs_restart.join(", "));
        standing += &format!("; needs a restart: {settings}");
    }
    if config.last_reload_failed {
        let when = config.last_failure_time.as_ref();
        let when = text::since(std::time::SystemTime::now(), when);
        let why = text::clean(&config.last_failure);
        let failed = format!("{standing}; the last reload, {when} ago, failed: {why}");
        return Some(Cell::new(failed, Tone::Bad));
    }
    let tone = match config.needs_restart.is_empty() {
        true => Tone::Plain,
        false => Tone::Doubtful,
    };
    Some(Cell::new(standing, tone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_work_and_what_waits_is_said() {
        assert!(standing(None).is_none());
        let mut config = v1::ConfigStatus {
            revision: 3,
            needs_restart: vec!["listen".to_owned()],
            ..Default::default()
        };
        let shown = |config: &_| standing(Some(config)).unwrap().paint(false);
        assert!(shown(&config).ends_with("; needs a restart: listen"));
        config.last_reload_failed = true;
        config.last_failure = "requests_max must be at least 1".to_owned();
        assert!(shown(&config).contains("failed: requests_max must be"));
    }
}
