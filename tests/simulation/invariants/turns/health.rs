//! What an endpoint's health has come to, and whether for a reason.

use std::{collections::BTreeSet, time::Duration};

use qcc_control::registry::{AdminState, CheckKind, Clock, Endpoint, Health, OutcomeClass, Policy};

use super::{
    super::{Judge, Violation, checks::check_of, is_failure, is_local, is_pause},
    brief,
    doubts::ROUNDING,
    verdicts::Verdict,
};

/// How long a data plane is expected back.
const RETURN_TIME: Duration = Duration::from_secs(15);

impl Judge {
    /// Judges that a fall has a reason that concerns this generation.
    pub(super) fn is_condemned(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
        rules: &Policy,
        clock: Clock,
    ) -> Result<(), Violation> {
        if verdict.is_some_and(|verdict| !verdict.passed) {
            return Ok(());
        }
        let about: Vec<_> = self.news_about(was).collect();
        let reason = about.iter().any(|(class, _)| is_failure(*class));
        if !reason {
            return Err(Violation::new(
                "I-26 no failure of before condemns",
                format!(
                    "`{}` fell in generation {}, of which nothing was reported",
                    is.spec.name, is.generation.0
                ),
            ));
        }
        let only_local = about
            .iter()
            .filter(|(class, _)| is_failure(*class))
            .all(|(class, _)| is_local(*class));
        if only_local
            && !self.has_no_other(was, clock)
            && self.doubts.witnesses(was, rules, clock) < 2
        {
            return Err(Violation::new(
                "I-32 no single proxy takes an endpoint from the others",
                format!("`{}` fell by one proxy's word", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Returns whether one of those who report something of an endpoint in this turn may be
    /// the only data plane. Who was there a moment ago is expected back.
    fn has_no_other(&self, was: &Endpoint, clock: Clock) -> bool {
        let lately = RETURN_TIME.saturating_sub(ROUNDING);
        let gone = (self.gone.iter()).filter(|(_, at)| clock.since(**at) <= lately);
        let there: BTreeSet<&String> = (self.streams.keys())
            .chain(gone.map(|(name, _)| name))
            .collect();
        let mut reporters = self.ledger.news.iter().filter(|news| {
            is_local(news.outcome.facts.outcome)
                && news.outcome.endpoint == was.spec.name.as_str()
                && news.outcome.generation == was.generation
        });
        reporters.any(|news| there.iter().all(|name| *name == news.proxy.id.as_str()))
    }

    /// Judges that a pause is lifted by what is newer than it.
    pub(super) fn is_lifted(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
    ) -> Result<(), Violation> {
        let lifted = matches!(was.health, Health::Degraded { .. })
            && matches!(is.health, Health::Healthy { .. } | Health::Unknown { .. });
        if !lifted || verdict.is_some_and(|verdict| verdict.passed) {
            return Ok(());
        }
        let newer = self
            .news_about(was)
            .any(|(class, view)| class == OutcomeClass::Success && view >= was.mark.view);
        // In one turn a pause may come and go: the mark that counts is the newer one.
        let paused_within = self.news_about(was).any(|(class, _)| is_pause(class));
        if !newer && !paused_within {
            return Err(Violation::new(
                "R-6 a success lifts only what it has seen",
                format!("`{}` is healthy by an older success", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Judges that a pause ends earlier only by what is newer.
    pub(super) fn is_shortened(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
    ) -> Result<(), Violation> {
        let (Health::Degraded { until: end, .. }, Health::Degraded { until, .. }) =
            (&was.health, &is.health)
        else {
            return Ok(());
        };
        if until >= end || verdict.is_some() {
            return Ok(());
        }
        let newer = self.news_about(was).any(|(_, view)| view >= was.mark.view);
        if !newer {
            return Err(Violation::new(
                "R-8 no pause is shortened by older evidence",
                format!("`{}` was paused until {end:?}, now {until:?}", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Judges that whoever is out has a check coming.
    pub(super) fn has_a_way_out(&self, is: &Endpoint, rules: &Policy) -> Result<(), Violation> {
        let idle = is.checks.due.is_none() && is.checks.running.is_none();
        // Without a check a few requests find out.
        let unknown = matches!(is.health, Health::Unknown { .. })
            && check_of(is, rules).kind != CheckKind::None;
        let out = is.health.incident().is_some() || unknown;
        if idle && out && is.spec.admin_state != AdminState::Disabled {
            return Err(Violation::new(
                "I-31 every bad state has a way out",
                format!(
                    "`{}` is {} and nothing is planned",
                    is.spec.name,
                    brief(&is.health)
                ),
            ));
        }
        Ok(())
    }
}

/// Judges that the check of a paused endpoint comes when it was planned, whatever fails there
/// meanwhile, unless the endpoint asks for more time.
pub(super) fn is_put_off(was: &Endpoint, is: &Endpoint, clock: Clock) -> Result<(), Violation> {
    let end = |endpoint: &Endpoint| match endpoint.health {
        Health::Degraded { until, .. } => Some(until),
        Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => None,
    };
    let (Some(planned), Some(due)) = (was.checks.due, is.checks.due) else {
        return Ok(());
    };
    let same = end(was).is_some() && end(was) == end(is);
    // One whose time has come may have to wait for the next hour's budget.
    if same && clock < planned && planned < due {
        return Err(Violation::new(
            "I-31 every bad state has a way out",
            format!("the check of `{}` was put off", is.spec.name),
        ));
    }
    Ok(())
}
