//! `qcc-ctl endpoints …`

mod explain;
mod show;
mod watch;

use std::time::Duration;

use prost_types::FieldMask;
use qcc_proto::v1::{self, endpoint_service_client::EndpointServiceClient as Client};

use super::{Answer, Context, confirm, missing};
use crate::{
    args::endpoints::{Act, Add, Eject, Endpoints, Fields, List, Named, Remove, Update},
    client::{PAGE_SIZE, Repeat, Server, request_id},
    error::{Error, Exit},
    text,
};

/// Longest wait for a check, unless the user says otherwise: the longest that a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn run(command: Endpoints, context: &Context) -> Result<Answer, Error> {
    match command {
        Endpoints::List(args) => list(args, context).await,
        Endpoints::Get(args) => get_one(args, context).await,
        Endpoints::Explain(args) => explain::run(args, context).await,
        Endpoints::Add(args) => add(*args, context).await,
        Endpoints::Update(args) => update(*args, context).await,
        Endpoints::Remove(args) => remove(args, context).await,
        Endpoints::Enable(Act { name, why }) => {
            let request = v1::EnableEndpointRequest {
                name,
                reason: why.reason,
            };
            let response = context
                .control
                .call(request, async |c, q| {
                    Client::new(c).enable_endpoint(q).await
                })
                .await?;
            done(context, response.endpoint, "enabled")
        }
        Endpoints::Disable(Act { name, why }) => {
            let request = v1::DisableEndpointRequest {
                name,
                reason: why.reason,
            };
            let response = context
                .control
                .call(request, async |c, q| {
                    Client::new(c).disable_endpoint(q).await
                })
                .await?;
            done(context, response.endpoint, "disabled")
        }
        Endpoints::Drain(Act { name, why }) => {
            let request = v1::DrainEndpointRequest {
                name,
                reason: why.reason,
            };
            let response = context
                .control
                .call(request, async |c, q| Client::new(c).drain_endpoint(q).await)
                .await?;
            done(context, response.endpoint, "draining")
        }
        Endpoints::Eject(Eject { name, why, hold }) => {
            let request = v1::EjectEndpointRequest {
                name,
                reason: why.reason,
                hold,
                request_id: request_id(),
            };
            let response = context
                .control
                .call(request, async |c, q| Client::new(c).eject_endpoint(q).await)
                .await?;
            done(context, response.endpoint, "ejected")
        }
        Endpoints::Restore(Act { name, why }) => {
            let request = v1::RestoreEndpointRequest {
                name,
                request_id: request_id(),
                reason: why.reason,
            };
            let response = context
                .control
                .call(request, async |c, q| {
                    Client::new(c).restore_endpoint(q).await
                })
                .await?;
            done(context, response.endpoint, "restored")
        }
        Endpoints::Verify(Named { name }) => verify(name, context).await,
        Endpoints::Watch(args) => watch::run(args, context).await,
    }
}

/// Returns one endpoint.
pub(super) async fn get(control: &Server, name: String) -> Result<v1::Endpoint, Error> {
    let request = v1::GetEndpointRequest { name };
    let response = control
        .call(request, async |c, q| Client::new(c).get_endpoint(q).await)
        .await?;
    response.endpoint.ok_or_else(|| missing("endpoint"))
}

/// Returns all pages as one answer.
pub(super) async fn list_all(
    control: &Server,
    mut request: v1::ListEndpointsRequest,
) -> Result<v1::ListEndpointsResponse, Error> {
    let mut all = v1::ListEndpointsResponse::default();
    request.page_size = PAGE_SIZE;
    let request = |page_token| v1::ListEndpointsRequest {
        page_token,
        ..request.clone()
    };
    let take = |page: v1::ListEndpointsResponse| {
        all.endpoints.extend(page.endpoints);
        all.view = page.view;
        page.next_page_token
    };
    let method = async |c, q| Client::new(c).list_endpoints(q).await;
    control.pages(request, method, take).await?;
    Ok(all)
}

async fn list(List { of, state }: List, context: &Context) -> Result<Answer, Error> {
    let filtered = state.is_some() || !of.cluster.is_empty();
    let state = state.unwrap_or_default().into();
    let request = v1::ListEndpointsRequest {
        cluster: of.cluster,
        state,
        ..Default::default()
    };
    let response = list_all(&context.control, request).await?;
    let names = response
        .endpoints
        .iter()
        .map(|endpoint| reference(&endpoint.name));
    let empty = if filtered {
        "no endpoint matches"
    } else {
        "no endpoints; add one with `qcc-ctl endpoints add`"
    };
    context.output.list(
        ("ListEndpointsResponse", &response),
        names,
        |wide| show::table(&response.endpoints, wide),
        empty,
    )?;
    Ok(Answer::Done)
}

async fn get_one(Named { name }: Named, context: &Context) -> Result<Answer, Error> {
    let endpoint = get(&context.control, name).await?;
    let people = || context.output.properties(&show::properties(&endpoint));
    context
        .output
        .one(("Endpoint", &endpoint), reference(&endpoint.name), people)?;
    Ok(Answer::Done)
}

async fn add(args: Add, context: &Context) -> Result<Answer, Error> {
    let (mut endpoint, _) = args.fields.endpoint()?;
    endpoint.name = args.name;
    endpoint.cluster = args.cluster;
    endpoint.base_url = args.base_url;
    if args.disabled {
        endpoint.set_admin_state(v1::AdminState::Disabled);
    }
    let request = v1::CreateEndpointRequest {
        endpoint: Some(endpoint),
        request_id: request_id(),
        validate_only: args.dry_run,
    };
    let response = context
        .control
        .call(request, async |c, q| {
            Client::new(c).create_endpoint(q).await
        })
        .await?;
    done(
        context,
        response.endpoint,
        if args.dry_run {
            "could be added"
        } else {
            "added"
        },
    )
}

async fn update(args: Update, context: &Context) -> Result<Answer, Error> {
    let (mut endpoint, given) = args.fields.endpoint()?;
    let mut paths: Vec<String> = given.into_iter().map(str::to_owned).collect();
    if let Some(base_url) = args.base_url {
        endpoint.base_url = base_url;
        paths.push("base_url".to_owned());
    }
    if let Some(both) = paths.iter().find(|path| args.unset.contains(path)) {
        return Err(Error::usage(format!(
            "`{both}` is both given and in `--unset`"
        )));
    }
    paths.extend(args.unset);
    if paths.is_empty() {
        return Err(Error::usage("nothing to change").hint("see `qcc-ctl endpoints update --help`"));
    }
    if args.overlap.is_some() && endpoint.credential.is_none() {
        return Err(Error::usage(
            "`--overlap` is how long the present key serves beside a new one, and there is no new one",
        )
        .hint("name it with `--key-stdin`, `--key-file` or `--key-env`"));
    }
    let without_key = paths.iter().any(|path| path == "base_url")
        && !paths.iter().any(|path| path == "credential");
    endpoint.name = args.name;
    endpoint.etag = args.guard.etag;
    let request = v1::UpdateEndpointRequest {
        endpoint: Some(endpoint),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
        validate_only: args.guard.dry_run,
        credential_overlap: args.overlap,
        reason: args.why.reason,
    };
    let response = context
        .control
        .call(request, async |c, q| {
            Client::new(c).update_endpoint(q).await
        })
        .await
        .map_err(|error| match error.exit() {
            Exit::Conflict if without_key => error.hint(
                "name the key for the new URL with `--key-stdin`, `--key-file` or `--key-env`; \
                 for no key, `--unset credential`",
            ),
            _ => error,
        })?;
    done(
        context,
        response.endpoint,
        if args.guard.dry_run {
            "could be updated"
        } else {
            "updated"
        },
    )
}

async fn remove(Remove { removal, why }: Remove, context: &Context) -> Result<Answer, Error> {
    confirm(
        removal.yes || removal.guard.dry_run,
        &format!("delete endpoint `{}`", removal.name),
    )?;
    let name = removal.name.clone();
    let request = v1::DeleteEndpointRequest {
        name: removal.name,
        etag: removal.guard.etag,
        request_id: request_id(),
        validate_only: removal.guard.dry_run,
        allow_missing: removal.if_exists,
        reason: why.reason,
    };
    let response = context
        .control
        .call(request, async |c, q| {
            Client::new(c).delete_endpoint(q).await
        })
        .await?;
    let done = if removal.guard.dry_run {
        "could be removed"
    } else {
        "removed"
    };
    let people = || format!("{} {done}\n", reference(&name));
    context.output.one(
        ("DeleteEndpointResponse", &response),
        reference(&name),
        people,
    )?;
    Ok(Answer::Done)
}

async fn verify(name: String, context: &Context) -> Result<Answer, Error> {
    let limit = context.control.given_timeout().unwrap_or(CHECK_TIMEOUT);
    let request = v1::VerifyEndpointRequest { name };
    let response = context
        .control
        .call_within(limit, Repeat::Safe, request, async |c, q| {
            Client::new(c).verify_endpoint(q).await
        })
        .await?;
    let endpoint = response
        .endpoint
        .clone()
        .ok_or_else(|| missing("endpoint"))?;
    let evidence = response.evidence.clone().unwrap_or_default();
    let people = || {
        let verdict = if response.passed {
            "passed".to_owned()
        } else if evidence.outcome() == v1::OutcomeClass::Success {
            "void: a failure arrived, or the endpoint changed, while it ran".to_owned()
        } else {
            format!("failed: {}", text::evidence(&evidence))
        };
        format!(
            "{} check {verdict} (now {})\n",
            reference(&endpoint.name),
            show::summary(&endpoint)
        )
    };
    context.output.one(
        ("VerifyEndpointResponse", &response),
        reference(&endpoint.name),
        people,
    )?;
    Ok(if response.passed {
        Answer::Done
    } else {
        Answer::No
    })
}

/// Says what was done to an endpoint, and how it is now.
fn done(context: &Context, endpoint: Option<v1::Endpoint>, what: &str) -> Result<Answer, Error> {
    let endpoint = endpoint.ok_or_else(|| missing("endpoint"))?;
    let people = || {
        format!(
            "{} {what} (now {})\n",
            reference(&endpoint.name),
            show::summary(&endpoint)
        )
    };
    context
        .output
        .one(("Endpoint", &endpoint), reference(&endpoint.name), people)?;
    Ok(Answer::Done)
}

fn reference(name: &str) -> String {
    format!("endpoint/{}", text::clean(name))
}

impl Fields {
    /// An endpoint with the given values, and the paths of the fields that were given.
    fn endpoint(self) -> Result<(v1::Endpoint, Vec<&'static str>), Error> {
        let credential = self.key.read()?;
        let check = self.check.check().map_err(Error::usage)?;
        let given = [
            ("credential", credential.is_some()),
            ("priority", self.priority.is_some()),
            ("weight", self.weight.is_some()),
            ("max_failures", self.max_failures.is_some()),
            ("timeout", self.first_byte_timeout.is_some()),
            ("check", check.is_some()),
            ("labels", !self.labels.is_empty()),
            ("allow_plaintext", self.allow_plaintext.is_some()),
        ];
        let endpoint = v1::Endpoint {
            credential,
            priority: self.priority,
            weight: self.weight,
            max_failures: self.max_failures,
            timeout: self.first_byte_timeout,
            check,
            labels: self.labels.into_iter().collect(),
            allow_plaintext: self.allow_plaintext.unwrap_or_default(),
            ..Default::default()
        };
        Ok((
            endpoint,
            given
                .into_iter()
                .filter(|(_, given)| *given)
                .map(|(path, _)| path)
                .collect(),
        ))
    }
}
