//! What people are told afterwards.

use super::*;

impl Story {
    fn kinds(&self) -> Vec<EventKind> {
        let entries = self.registry.events().entries.values();
        entries.map(|event| event.kind).collect()
    }

    fn last_event(&self) -> Arc<Event> {
        let newest = self.registry.events().entries.get_max();
        newest
            .map(|(_, event)| event.clone())
            .expect("something happened")
    }

    fn paused_at_once(&mut self, names: &[&'static str]) {
        for name in names {
            self.see("p", name, OutcomeClass::Overloaded);
        }
    }
}

#[test]
fn an_incident_is_told_from_its_first_evidence_to_its_end() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    let chosen = story.choose("a");
    let facts = Facts {
        http_status: 401,
        error_type: "authentication_error".into(),
        upstream_request_id: "req_1".into(),
        ..Facts::of(OutcomeClass::Auth)
    };
    story.report("p", chosen, facts);
    let ejected = story.last_event();
    assert_eq!(
        (ejected.kind, ejected.from, ejected.to, ejected.cause),
        (
            EventKind::EndpointEjected,
            Some(State::Healthy),
            Some(State::Unhealthy),
            Some(Cause::Auth)
        )
    );
    let evidence = ejected.evidence.as_deref().expect("somebody saw it");
    assert_eq!(evidence.witness, Witness::Proxy(ProxyId::new("p")));
    assert_eq!(
        (evidence.view, evidence.generation),
        (chosen.view, chosen.generation)
    );
    assert_eq!(evidence.facts.upstream_request_id, "req_1");

    for _ in 0..57 {
        story.report("q", chosen, Facts::of(OutcomeClass::Auth));
    }
    story.wait(Duration::from_secs(2));
    let more = story.last_event();
    assert_eq!((more.kind, more.count), (EventKind::FailuresSuppressed, 57));
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(story.last_event().kind, EventKind::EndpointRecovered);
    story.report("q", chosen, Facts::of(OutcomeClass::Auth));
    assert_eq!(story.last_event().kind, EventKind::ReportsStale);
    assert_eq!(
        story.kinds(),
        [
            EventKind::ControlStarted,
            EventKind::EndpointCreated,
            EventKind::EndpointHealthy,
            EventKind::EndpointEjected,
            EventKind::FailuresSuppressed,
            EventKind::EndpointRecovered,
            EventKind::ReportsStale,
        ]
    );
}

#[test]
fn an_overloaded_provider_is_one_event_however_many_endpoints_it_has() {
    let mut story = Story::new(&[], &["p"]);
    for name in ["a", "b", "c", "d"] {
        let provider = if name == "d" { "other" } else { "acme" };
        let labels = [("provider".into(), provider.into())].into();
        let spec = Spec {
            labels,
            ..spec(name)
        };
        story
            .mutate(Mutation::CreateEndpoint(spec))
            .expect("the name is free");
    }
    story.paused_at_once(&["a", "b", "c"]);
    story.wait(Duration::from_secs(1));
    let busy = story.last_event();
    let group = busy.group.as_deref().expect("it is about several");
    assert_eq!(busy.kind, EventKind::ProviderBusy);
    assert_eq!((group.provider.as_str(), group.endpoint_count), ("acme", 3));
    assert!(busy.concerns(&name("b")) && !busy.concerns(&name("d")));
    story.paused_at_once(&["d"]);
    let busy = |kind: &EventKind| *kind == EventKind::ProviderBusy;
    assert_eq!(story.kinds().into_iter().filter(busy).count(), 2);
}

#[test]
fn a_provider_that_is_well_again_is_one_event_too() {
    let mut story = Story::new(&[], &["p"]);
    for name in ["a", "b", "c"] {
        let labels = [("provider".into(), "acme".into())].into();
        let spec = Spec {
            labels,
            ..spec(name)
        };
        story
            .mutate(Mutation::CreateEndpoint(spec))
            .expect("the name is free");
    }
    story.paused_at_once(&["a", "b", "c"]);
    story.wait(Duration::from_secs(11));
    story.see("p", "a", OutcomeClass::Success);
    let well = story.last_event();
    assert_eq!(well.kind, EventKind::EndpointHealthy);
    assert_eq!(well.endpoint, Some(name("a")), "the first is told at once");
    assert_eq!(well.from, Some(State::Degraded));
    for name in ["b", "c"] {
        story.see("p", name, OutcomeClass::Success);
    }
    story.wait(Duration::from_secs(1));
    let well = story.last_event();
    let group = well.group.as_deref().expect("it is about several");
    assert_eq!((well.count, well.endpoint.as_ref()), (3, None));
    assert_eq!((group.provider.as_str(), group.endpoint_count), ("acme", 3));
    let healthy = |kind: &EventKind| *kind == EventKind::EndpointHealthy;
    assert_eq!(story.kinds().into_iter().filter(healthy).count(), 1);
}

#[test]
fn an_endpoint_that_pauses_again_and_again_does_not_fill_the_log() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let before = story.kinds().len();
    for _ in 0..20 {
        let facts = Facts {
            retry_after: Some(Duration::from_secs(1)),
            ..Facts::of(OutcomeClass::RateLimited)
        };
        let chosen = story.choose("a");
        story.report("p", chosen, facts);
        assert_eq!(story.endpoint("a").health.state(), State::Degraded);
        story.wait(Duration::from_secs(2));
        story.see("p", "a", OutcomeClass::Success);
        assert_eq!(story.endpoint("a").health.state(), State::Healthy);
    }
    story.wait(Duration::from_secs(60));
    let entries = story.registry.events().entries.values().skip(before);
    let mut told: Vec<_> = entries.map(|event| (event.kind, event.count)).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            (EventKind::EndpointPaused, 20),
            (EventKind::EndpointHealthy, 20)
        ]
    );
}

#[test]
fn a_new_incident_is_counted_anew() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    for _ in 0..2 {
        let chosen = story.choose("a");
        for proxy in ["p", "q", "q"] {
            story.report(proxy, chosen, Facts::of(OutcomeClass::Auth));
        }
        let order = story.next_check();
        story.answer(&order, true, OutcomeClass::Success);
    }
    story.wait(Duration::from_secs(60));
    let entries = story.registry.events().entries.values();
    let suppressed = entries.filter(|event| event.kind == EventKind::FailuresSuppressed);
    let told: Vec<_> = suppressed
        .map(|event| (event.generation, event.count))
        .collect();
    assert_eq!(told.iter().map(|told| told.1).collect::<Vec<_>>(), [2, 2]);
    assert!(told[0].0 < told[1].0);
}

#[test]
fn a_doubt_that_comes_as_an_old_one_ends_is_told() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.see("p", "a", OutcomeClass::Connect);
    story.see("p", "a", OutcomeClass::Connect);
    let window = Policy::default().corroboration_window;
    story.wait(window + Duration::from_secs(1));
    story.see("q", "a", OutcomeClass::Connect);
    let doubts = |kind: &EventKind| *kind == EventKind::EndpointDoubted;
    assert_eq!(story.endpoint("a").doubts.len(), 1);
    assert_eq!(story.kinds().into_iter().filter(doubts).count(), 2);
    let evidence = story
        .last_event()
        .evidence
        .clone()
        .expect("somebody saw it");
    assert_eq!(evidence.witness, Witness::Proxy(ProxyId::new("q")));
}

#[test]
fn what_a_declaration_removes_is_told_as_it_was() {
    let mut story = Story::healthy(&["a"], &[]);
    let generation = story.endpoint("a").generation;
    let declaration = Declaration {
        prune: true,
        ..Declaration::default()
    };
    story
        .mutate(Mutation::Apply(declaration))
        .expect("it is valid");
    let event = story.last_event();
    assert_eq!(event.kind, EventKind::EndpointDeleted);
    assert_eq!(event.cluster, Some(ClusterName::default_cluster()));
    assert_eq!(event.generation, generation);
    assert_eq!((event.from, event.to), (Some(State::Healthy), None));
}

#[test]
fn an_overload_does_not_escalate() {
    let mut story = Story::healthy(&["a"], &["p"]);
    for _ in 0..20 {
        story.see("p", "a", OutcomeClass::Overloaded);
        let Health::Degraded { until, .. } = story.endpoint("a").health else {
            panic!("it is paused, and no more than that");
        };
        assert!(until.since(story.now.clock) <= Duration::from_secs(10));
        story.wait(Duration::from_secs(11));
    }
    assert_eq!(story.totals().failed, 0);
}

#[test]
fn an_operators_act_is_told_with_name_and_reason() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let operator = Operator {
        name: "ann@desk".into(),
        reason: "maintenance".into(),
    };
    let drain = Mutation::SetAdminState {
        name: name("a"),
        state: AdminState::Draining,
    };
    story
        .registry
        .mutate_as(operator.clone(), drain, None, story.now)
        .expect("it exists");
    let event = story.last_event();
    assert_eq!(event.kind, EventKind::EndpointUpdated);
    assert_eq!(event.admin_state, Some(AdminState::Draining));
    assert_eq!(event.operator.as_deref(), Some(&operator));
    story.see("p", "a", OutcomeClass::Auth);
    assert_eq!(story.last_event().operator, None, "nobody asked for that");
}

#[test]
fn a_large_import_is_one_event() {
    let mut story = Story::new(&[], &[]);
    let endpoints = (0..150).map(|n| DeclaredEndpoint {
        spec: spec(&format!("e-{n:03}")),
        key: KeyChange::Keep,
        admin_state: None,
    });
    let declaration = Declaration {
        endpoints: endpoints.collect(),
        ..Declaration::default()
    };
    story
        .mutate(Mutation::Apply(declaration))
        .expect("it is valid");
    let event = story.last_event();
    let group = event.group.as_deref().expect("it is about several");
    assert_eq!((event.kind, event.count), (EventKind::EndpointCreated, 150));
    assert_eq!((group.endpoint_count, group.endpoints.len()), (150, 100));
    assert_eq!(event.cluster, Some(ClusterName::default_cluster()));
}

#[test]
fn a_refused_check_is_told_and_counted() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    while story.registry.check_counts.refused == 0 {
        let order = story.orders.pop();
        if let Some(order) = order {
            story.answer(&order, false, OutcomeClass::Auth);
        }
        // An operator's own checks are not limited, but they count.
        let verify = Mutation::Verify { name: name("a") };
        if story.endpoint("a").stats.checks < 60 {
            story.mutate(verify).expect("it exists");
        } else {
            story.wait(Duration::from_secs(10));
        }
    }
    assert_eq!(story.endpoint("a").stats.checks_refused, 1);
    assert!(story.kinds().contains(&EventKind::CheckRefused));
}

#[test]
fn a_restart_writes_back_only_what_it_changes() {
    let mut story = Story::healthy(&["a", "b"], &["p"]);
    story.see("p", "b", OutcomeClass::Auth);
    let _ = story.next_check(); // In flight when the process ends.
    let mut restarted = Registry::new(2, saved(&story.registry), seed(), story.now);
    restarted.advance(story.now);
    let dirty = restarted.settle().dirty;
    assert_eq!(dirty.endpoints, [name("b")].into());
    assert!(
        restarted.poll_timeout().is_some(),
        "its check is planned again"
    );
}

#[test]
fn history_survives_a_restart() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    let before = story.kinds();
    let newest = story.registry.events().newest();
    story.registry = Registry::new(2, saved(&story.registry), seed(), story.now);
    assert_eq!(story.kinds()[..before.len()], before);
    assert_eq!(story.last_event().kind, EventKind::ControlStarted);
    assert_eq!(story.last_event().id, newest + 1);
}
