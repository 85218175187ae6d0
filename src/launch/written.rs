//! Which plan judges an agent: the one it names, made tighter if the agent asks for it, or the one it writes.
//!
//! A plan as it is written, with all that its meaning depends on, is what is stored with a launch: it can be resolved again,
//! and its hash proves that it is the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::plan::{definitions, resolve_written};
use super::{Plan, PlanError};
use crate::api::{
    self, AgentDeploymentSpec, BASIC, FreezeWindow, LaunchPlanSpec, Metrics, Sharing, Stage, Tightening, TighterStage,
    span,
};

/// Gates of a stage, and triggers of a plan: status has room for so many.
const MOST: usize = 16;

/// A plan as it is written, with all that its meaning depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrittenPlan {
    /// Where it is written, for messages.
    pub(super) place: String,
    /// Stages and triggers.
    pub(super) plan: LaunchPlanSpec,
    /// The agent's metrics.
    pub(super) metrics: Metrics,
    /// The agent has a gateway.
    pub(super) gateway: bool,
    /// The agent's pods make the shares.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_pods: bool,
}

impl WrittenPlan {
    /// The plan of an agent. `named` is the LaunchPlan that it names, if there is one of that name.
    pub fn of(spec: &AgentDeploymentSpec, named: Option<&LaunchPlanSpec>) -> Result<Self, PlanError> {
        let launch = spec.launch.clone().unwrap_or_default();
        let (gateway, by_pods) = (spec.traffic.is_some(), spec.sharing() == Sharing::Pods);
        let metrics = spec.metrics.clone().unwrap_or_default();
        let Some(name) = launch.plan_ref.map(|plan| plan.name) else {
            return Ok(Self { place: "spec.launch".to_owned(), plan: launch.plan, metrics, gateway, by_pods });
        };
        let plan = match named {
            Some(plan) => plan.clone(),
            None if name == BASIC => LaunchPlanSpec::default(),
            None => return Err(PlanError::Missing(name)),
        };
        let base = Self { place: format!("LaunchPlan {name}: spec"), plan, metrics, gateway, by_pods };
        base.fits(&name)?;
        base.resolve()?;
        match launch.tighten {
            Some(tightening) if tightening != Tightening::default() => base.tighten(&name, &tightening),
            Some(_) | None => Ok(base),
        }
    }

    /// Every default applied, every metric name replaced by its definition, hashed.
    pub fn resolve(&self) -> Result<Plan, PlanError> {
        resolve_written(self)
    }

    /// How shares of the agent's traffic are made.
    pub(super) fn sharing(&self) -> Sharing {
        match (self.gateway, self.by_pods) {
            (_, true) => Sharing::Pods,
            (true, false) => Sharing::Route,
            (false, false) => Sharing::None,
        }
    }

    /// What the CEL rules of an agent check of an inline plan, and no rule can check of a LaunchPlan.
    fn fits(&self, name: &str) -> Result<(), PlanError> {
        let mut stages = self.plan.stages.iter().flatten();
        if let Some(stage) = stages.find(|stage| stage.traffic != 0 && !self.gateway) {
            let (name, stage, share) = (name.to_owned(), stage.name.clone(), stage.traffic);
            return Err(PlanError::NeedsGateway { name, stage, share });
        }
        self.floors()
    }

    /// Twice nothing is nothing: a multiple of a share of events needs a floor.
    fn floors(&self) -> Result<(), PlanError> {
        let metrics = definitions(&self.metrics);
        let bare = |trigger: &&api::Trigger| {
            let metric = trigger.metric.as_ref();
            let bounds = metric.and_then(|metric| metric.ratio_to_stable.as_ref());
            let share = metric.and_then(|metric| metrics.get(&metric.name)).is_some_and(|it| it.ratio.is_some());
            share && bounds.is_some_and(|bounds| bounds.above.is_some() && bounds.floor.is_none())
        };
        match self.plan.triggers.iter().flatten().find(bare) {
            Some(trigger) => Err(PlanError::NoFloor(format!("{}.triggers[{}]", self.place, trigger.name))),
            None => Ok(()),
        }
    }

    /// The plan with what an agent adds to it. It can only add: `only_tightens` holds for the two, and a test proves it.
    fn tighten(&self, name: &str, tightening: &Tightening) -> Result<Self, PlanError> {
        let basic = api::basic_plan(self.sharing());
        let mut tight = Self { place: "spec.launch.tighten".to_owned(), ..self.clone() };
        if tight.plan.stages.is_none() {
            tight.plan.soak = tight.plan.soak.or(basic.soak); // written stages have no soak of their own
        }
        let mut stages = tight.plan.stages.take().or(basic.stages).unwrap_or_default();
        let mut triggers = tight.plan.triggers.take().or(basic.triggers).unwrap_or_default();
        for wanted in &tightening.stages {
            let names: Vec<_> = stages.iter().map(|stage| stage.name.clone()).collect();
            let Some(stage) = stages.iter_mut().find(|stage| stage.name == wanted.name) else {
                let mend = format!("LaunchPlan {name} has the stages {}: name one of them", names.join(", "));
                return Err(loose(format!("stages[{}]", wanted.name), mend));
            };
            tighten_stage(stage, wanted)?;
        }
        add(&mut triggers, &tightening.triggers, |trigger| &trigger.name, "triggers")?;
        tight.plan.stages = Some(stages);
        tight.plan.triggers = Some(triggers);
        tight.floors()?;
        let resolved = tight.resolve()?;
        if let Some(stage) = resolved.stages.iter().find(|stage| stage.min_duration >= stage.deadline) {
            let mend = "it reaches the stage's deadline in the plan, so that the stage could never be left: lower it";
            return Err(loose(format!("stages[{}].minDuration", stage.name), mend.to_owned()));
        }
        Ok(tight)
    }
}

fn loose(field: String, mend: String) -> PlanError {
    PlanError::CannotTighten { field, mend }
}

fn tighten_stage(stage: &mut Stage, wanted: &TighterStage) -> Result<(), PlanError> {
    let place = format!("stages[{}]", stage.name);
    if let Some(longer) = &wanted.min_duration {
        if span(longer) < stage.min_duration.as_ref().map(span).unwrap_or_default() {
            let mend = "it is shorter than in the plan: raise it, or remove it".to_owned();
            return Err(loose(format!("{place}.minDuration"), mend));
        }
        stage.min_duration = Some(*longer);
    }
    add(&mut stage.gates, &wanted.gates, |gate| &gate.name, &format!("{place}.gates"))
}

/// Adds what has a name of its own.
fn add<T: Clone>(to: &mut Vec<T>, more: &[T], name: fn(&T) -> &String, place: &str) -> Result<(), PlanError> {
    let taken: BTreeSet<String> = to.iter().map(|item| name(item).clone()).collect();
    if let Some(item) = more.iter().find(|item| taken.contains(name(item))) {
        let mend = "the plan has one of that name, which stays as it is: choose another name".to_owned();
        return Err(loose(format!("{place}[{}]", name(item)), mend));
    }
    to.extend_from_slice(more);
    if to.len() > MOST {
        return Err(loose(place.to_owned(), format!("with those of the plan they are {}: {MOST} at most", to.len())));
    }
    Ok(())
}

/// The freeze windows that an agent writes, and those of the plan that it names.
pub fn freeze_windows(spec: &AgentDeploymentSpec, named: Option<&LaunchPlanSpec>) -> Vec<(String, FreezeWindow)> {
    let own = spec.launch.iter().flat_map(|launch| &launch.plan.freeze);
    let own = own.map(|window| (format!("spec.launch.freeze[{}]", window.name), window.clone()));
    let name = spec.launch.as_ref().and_then(|launch| launch.plan_ref.as_ref()).map(|plan| plan.name.as_str());
    let theirs = named.into_iter().flat_map(|plan| &plan.freeze);
    let place =
        |window: &FreezeWindow| format!("LaunchPlan {}: spec.freeze[{}]", name.unwrap_or_default(), window.name);
    theirs.map(|window| (place(window), window.clone())).chain(own).collect()
}

/// Whether `new` asks for all that `old` asks for, and nothing is easier: the same stages and clocks, every gate and trigger
/// as it was, a minimum duration and the soak not shorter. Such an edit restarts nothing.
pub fn only_tightens(old: &Plan, new: &Plan) -> bool {
    let stages = old.stages.len() == new.stages.len()
        && old.stages.iter().zip(&new.stages).all(|(old, new)| {
            (&old.name, old.weight, old.deadline, old.then) == (&new.name, new.weight, new.deadline, new.then)
                && old.only == new.only
                && old.min_duration <= new.min_duration
                && old.gates.iter().all(|gate| new.gates.contains(gate))
        });
    let triggers = old.triggers.iter().all(|trigger| new.triggers.contains(trigger));
    stages && triggers && old.soak <= new.soak && (old.interval, &old.source) == (new.interval, &new.source)
}

#[cfg(test)]
mod tests;
