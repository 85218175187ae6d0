//! The plan of an agent: the LaunchPlan that it names, its freeze windows, and the copy of the plan that judges a running launch.
//!
//! A copy is an immutable ConfigMap named by the plan's hash, which proves its contents. It is used when the plan cannot be
//! resolved any more: the launch is held, and judged as before.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::SignedDuration;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::Error;
use super::context::{Context, Key};
use super::perform::{create, delete};
use super::prepare::Prepared;
use crate::api::{
    AgentDeployment, AgentDeploymentSpec, BASIC, FreezeWindow, Launch, LaunchPlanSpec, OnFail, Phase, clip,
};
use crate::children::{self, Owner};
use crate::launch::{self, Plan, PlanError, WantedRevision, Window, WindowError, WrittenPlan};

/// A copy that could not be read is read again after so long.
const UNREADABLE: SignedDuration = SignedDuration::from_secs(3);

/// Why an agent has no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A LaunchPlan that an older or newer Sluice wrote, or that was written around the schema.
    #[error("LaunchPlan {0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("the cluster has no LaunchPlans: apply Sluice's CRDs (charts/sluice/crds), or remove spec.launch.planRef")]
    NoKind,
}

impl Problem {
    /// A word for conditions, and the mend.
    fn reason(&self) -> (String, String) {
        let missing = matches!(self, Self::Plan(PlanError::Missing(_)) | Self::NoKind);
        let reason = if missing { "PlanMissing" } else { "PlanInvalid" };
        (reason.to_owned(), clip(&self.to_string(), 512))
    }
}

/// What judges an agent's launches.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    /// As it is written; `None` when it cannot be resolved.
    pub(crate) written: Option<WrittenPlan>,
    /// It is the built-in plan, of which nobody needs a copy.
    pub(crate) built_in: bool,
    /// The freeze windows of plan and agent that can be understood, and the administrator's.
    pub(crate) windows: Vec<Window>,
}

/// The plan and its windows. One that cannot be resolved holds every launch, under the built-in triggers.
pub(crate) fn judge(ctx: &Context, spec: &AgentDeploymentSpec) -> Judged {
    judge_by(ctx.freeze.clone(), named(ctx, spec), spec)
}

/// The plan, who judges by it, and why an agent has none of its own: a word for conditions, and the mend.
type Judged = (Plan, Judge, Option<(String, String)>);

/// The same, of the administrator's windows and of the LaunchPlan that was found.
fn judge_by(
    mut windows: Vec<Window>,
    named: Result<Option<LaunchPlanSpec>, Problem>,
    spec: &AgentDeploymentSpec,
) -> Judged {
    let found = named.as_ref().ok().and_then(Option::as_ref);
    let parsed = launch::freeze_windows(spec, found).into_iter().map(|(place, window)| Window::parse(&place, &window));
    let mut wrong = None;
    for window in parsed {
        match window {
            Ok(window) => windows.push(window),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    let resolved = named.and_then(|named| {
        let written = WrittenPlan::of(spec, named.as_ref())?;
        let plan = written.resolve()?;
        wrong.map_or(Ok((plan, written)), |error| Err(error.into()))
    });
    match resolved {
        Ok((plan, written)) => {
            let built_in = plan.hash == launch::basic(spec).hash;
            (plan, Judge { written: Some(written), built_in, windows }, None)
        }
        Err(problem) => (launch::basic(spec), Judge { written: None, built_in: true, windows }, Some(problem.reason())),
    }
}

/// The LaunchPlan that an agent names; `None` when it names none, or the built-in one.
fn named(ctx: &Context, spec: &AgentDeploymentSpec) -> Result<Option<LaunchPlanSpec>, Problem> {
    let Some(name) = plan_ref(spec) else { return Ok(None) };
    let Some(plans) = &ctx.caches.plans else {
        return if name == BASIC { Ok(None) } else { Err(Problem::NoKind) };
    };
    match plans.get(&ObjectRef::new(name)).as_deref() {
        None => Ok(None),
        Some(plan) => match &plan.0 {
            Ok(plan) => Ok(Some(plan.spec.clone())),
            Err(error) => Err(Problem::Unreadable(name.to_owned(), error.error.clone())),
        },
    }
}

/// Name of the LaunchPlan that an agent asks for.
pub(super) fn plan_ref(spec: &AgentDeploymentSpec) -> Option<&str> {
    spec.launch.as_ref()?.plan_ref.as_ref().map(|plan| plan.name.as_str())
}

/// The version of the LaunchPlan that an agent names.
pub(super) fn version(ctx: &Context, spec: &AgentDeploymentSpec) -> Option<String> {
    let found = ctx.caches.plans.as_ref()?.get(&ObjectRef::new(plan_ref(spec)?))?;
    found.resource_version()
}

/// The administrator's freeze windows.
pub(crate) fn parse(windows: &[FreezeWindow]) -> Result<Vec<Window>, WindowError> {
    windows.iter().map(|window| Window::parse(&format!("freeze[{}]", window.name), window)).collect()
}

// ---- the copy

/// The plan that a pass judges by: the agent's, told whether it only tightens the running launch's; or that launch's copy
/// when the agent's cannot be resolved.
pub(crate) async fn in_force(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    prepared: Arc<Prepared>,
) -> Arc<Prepared> {
    let Some(launch) = judged(agent).filter(|launch| launch.plan_hash != prepared.plan.hash) else {
        return prepared;
    };
    let hash = &launch.plan_hash;
    let basic = Some(launch::basic(&agent.spec)).filter(|basic| basic.hash == *hash); // it has no copy
    let found = if basic.is_some() { Ok(basic) } else { copy(ctx, key, hash).await };
    let (copy, retry_at) = match found {
        Ok(copy) => (copy, None),
        Err(error) => {
            tracing::warn!(namespace = key.0, agent = key.1, %error, "the copy of the launch's plan cannot be read");
            (None, Some(ctx.now() + UNREADABLE))
        }
    };
    let unread = retry_at.is_some();
    let mut changed = prepared.as_ref().clone();
    changed.retry_at = changed.retry_at.into_iter().chain(retry_at).min();
    if prepared.judge.written.is_some() {
        if unread {
            // whether it only tightens is known when the copy can be read: until then nothing restarts, and nothing rises
            changed.plan = stand_in(&prepared.plan, launch, unread);
            let message = "the stored copy of the launch's plan cannot be read; it is tried again".to_owned();
            changed.wanted = WantedRevision::Unknown { reason: "Unreadable".to_owned(), message };
        } else {
            let tightens = copy.is_some_and(|old| launch::only_tightens(&old, &prepared.plan));
            changed.plan.tightens = tightens.then(|| hash.clone());
        }
    } else {
        // without a copy the built-in triggers judge, and the launch stays in its stage
        changed.plan = copy.unwrap_or_else(|| stand_in(&prepared.plan, launch, unread));
    }
    Arc::new(changed)
}

/// A plan has no more stages, whatever a status says.
const MOST_STAGES: i32 = 16;

/// Another plan, for a launch whose own is not at hand: it restarts no stage, asks for no other share, and ends no soak. Where that
/// one is only `unread`, what its stage asks is known in a moment, and no deadline or gate of the other ends it.
fn stand_in(plan: &Plan, launch: &Launch, unread: bool) -> Plan {
    let mut plan = Plan { hash: launch.plan_hash.clone(), tightens: None, soak: Duration::MAX, ..plan.clone() };
    let reached = usize::try_from(launch.stage.min(MOST_STAGES - 1) + 1).unwrap_or(0);
    let missing = reached.saturating_sub(plan.stages.len());
    plan.stages.extend(plan.stages.last().cloned().into_iter().cycle().take(missing));
    for stage in &mut plan.stages {
        stage.weight = launch.weight;
        if unread {
            stage.deadline = Duration::MAX;
            stage.gates.iter_mut().for_each(|gate| gate.on_fail = OnFail::Hold);
        }
    }
    plan
}

/// The launch that a plan judges; a rollback asks nobody.
fn judged(agent: &AgentDeployment) -> Option<&Launch> {
    let launch = agent.status.as_ref()?.state.launch.as_ref()?;
    Some(launch).filter(|launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting | Phase::Soaking))
}

/// The stored plan with this hash, if there is one that can be trusted.
async fn copy(ctx: &Context, key: &Key, hash: &str) -> Result<Option<Plan>, Error> {
    if let Some(known) = ctx.remember(key, |memory| memory.plan.clone()).filter(|plan| plan.hash == hash) {
        return Ok(Some(known));
    }
    let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), &key.0);
    let name = children::plan_name(&key.1, hash);
    let found = ctx.calls.read("ConfigMap", &name, api.get_opt(&name)).await?;
    let plan = found.as_ref().and_then(children::stored_plan).and_then(|written| written.resolve().ok());
    let Some(plan) = plan.filter(|plan| plan.hash == hash) else { return Ok(None) }; // an altered copy is none
    ctx.remember(key, |memory| memory.plan = Some(plan.clone()));
    Ok(Some(plan))
}

/// Stores the plan that judges a running launch, and removes the copies that no launch needs.
pub(crate) async fn keep(
    ctx: &Context,
    key: &Key,
    owner: &Owner,
    prepared: &Prepared,
    launch: Option<&Launch>,
) -> Result<(), Error> {
    let running = launch.filter(|launch| launch.phase != Phase::Complete);
    let hash = running.map(|launch| launch.plan_hash.as_str());
    let stored = ctx.caches.plan_copies_of(&key.0, &key.1);
    let judged = running.is_some_and(|launch| launch.phase != Phase::RollingBack);
    if let (true, Some(hash), Some(written)) = (judged, hash, &prepared.judge.written)
        && prepared.plan.hash == hash
        && !prepared.judge.built_in
        && !stored.contains(hash)
    {
        let copy = children::plan_copy(owner, hash, written);
        create::<ConfigMap>(ctx, key, "ConfigMap", &copy).await?;
    }
    for old in stored.iter().filter(|old| Some(old.as_str()) != hash) {
        delete::<ConfigMap>(ctx, key, "ConfigMap", &children::plan_name(&key.1, old)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::launch::Freeze;

    fn window(name: &str, schedule: &str) -> FreezeWindow {
        serde_json::from_value(serde_json::json!({"name": name, "schedule": schedule, "duration": "2h"})).unwrap()
    }

    fn spec(freeze: &[FreezeWindow]) -> AgentDeploymentSpec {
        serde_json::from_value(serde_json::json!({
            "template": {"spec": {"containers": [{"name": "agent", "image": "a", "ports": [{"containerPort": 1}]}]}},
            "launch": {"freeze": freeze},
        }))
        .unwrap()
    }

    fn launch_of(plan_hash: &str, stage: i32, weight: i32) -> Launch {
        serde_json::from_value(serde_json::json!({
            "number": 2, "id": "a-2", "revision": "c3", "planHash": plan_hash, "phase": "Progressing", "stage": stage,
            "stageName": "half", "stages": 9, "weight": weight, "startedAt": "2026-11-21T12:00:00Z",
            "enteredAt": "2026-11-21T12:00:00Z", "stableSize": 1,
        }))
        .unwrap()
    }

    /// The window that holds an agent on this Saturday at this hour.
    fn frozen(judged: &Judged, hour: &str) -> Option<String> {
        let now: Timestamp = format!("2026-11-21T{hour}:30:00Z").parse().unwrap();
        Freeze::at(&judged.1.windows, now).open.map(|open| open.window)
    }

    #[test]
    fn no_deadline_and_no_gate_of_another_plan_ends_a_launch_whose_own_could_not_be_read() {
        let mut basic = launch::basic(&spec(&[]));
        for stage in &mut basic.stages {
            stage.gates.iter_mut().for_each(|gate| gate.on_fail = OnFail::Rollback);
        }
        let launch = launch_of("b2", 0, 0);
        let gates = |unread| stand_in(&basic, &launch, unread).stages.into_iter().flat_map(|stage| stage.gates);
        assert!(gates(true).all(|gate| gate.on_fail == OnFail::Hold) && gates(true).count() > 0);
        assert!(gates(false).all(|gate| gate.on_fail == OnFail::Rollback));
        let deadlines = |unread| stand_in(&basic, &launch, unread).stages.into_iter().map(|stage| stage.deadline);
        assert!(deadlines(true).all(|deadline| deadline == Duration::MAX));
        assert!(deadlines(false).eq(basic.stages.iter().map(|stage| stage.deadline)), "one that is lost waits so long");
        let stands_in = stand_in(&basic, &launch, true);
        assert_eq!((stands_in.hash.as_str(), &stands_in.triggers), ("b2", &basic.triggers));
    }

    #[test]
    fn another_plan_asks_no_other_share_of_a_launch_whose_own_is_not_at_hand_and_ends_no_soak() {
        let basic = launch::basic(&spec(&[]));
        for unread in [true, false] {
            let stands_in = stand_in(&basic, &launch_of("b2", 7, 60), unread);
            assert_eq!((stands_in.stages.len(), stands_in.soak), (8.max(basic.stages.len()), Duration::MAX));
            assert!(stands_in.stages.iter().all(|stage| stage.weight == 60), "{:?}", stands_in.stages);
        }
    }

    #[test]
    fn the_administrators_window_holds_every_agent_beside_its_own_and_when_it_has_no_plan() {
        let administrators = parse(&[window("year-end", "0 12 * * *")]).unwrap();
        let plain = judge_by(administrators.clone(), Ok(None), &spec(&[]));
        assert_eq!(
            (frozen(&plain, "12").as_deref(), frozen(&plain, "14"), plain.2.clone()),
            (Some("year-end"), None, None)
        );
        let own = judge_by(administrators.clone(), Ok(None), &spec(&[window("lunch", "0 14 * * *")]));
        assert_eq!((frozen(&own, "12").as_deref(), frozen(&own, "14").as_deref()), (Some("year-end"), Some("lunch")));
        let lost = judge_by(administrators.clone(), Err(Problem::NoKind), &spec(&[window("lunch", "0 14 * * *")]));
        assert_eq!((frozen(&lost, "12").as_deref(), frozen(&lost, "14").as_deref()), (Some("year-end"), Some("lunch")));
        assert_eq!(lost.2.map(|(reason, _)| reason).as_deref(), Some("PlanMissing"));
        let wrong = judge_by(administrators, Ok(None), &spec(&[window("lunch", "noon")]));
        assert_eq!(frozen(&wrong, "12").as_deref(), Some("year-end"), "one that is not understood takes no other away");
        assert_eq!(wrong.2.map(|(reason, _)| reason).as_deref(), Some("PlanInvalid"));
        assert_eq!(plain.0.hash, judge_by(Vec::new(), Ok(None), &spec(&[])).0.hash, "windows are in no hash");
    }
}
