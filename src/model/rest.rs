//! The end of all trouble: from any state, when nothing bad happens any more, the world comes to rest where it should, woken
//! by nothing but what the operator watches and the wakes that it asked for. Every wait ends, whatever does not come.

use super::clock::NOW;
use super::operator::Operator;
use super::rules::Budget;
use super::world::{Action, Says, Spec, World};
use crate::api::{DecisionVerb, Phase, Verdict};
use crate::launch::Shares;
use crate::launch::promises::Broken;

/// What the rest of time is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Future {
    /// Everything goes well.
    Well,
    /// No gate is ever measured again.
    NoVerdict,
    /// Pods of a revision that is not stable never become ready.
    NoPods,
    /// The gateway answers no more.
    Silence,
}

impl Future {
    pub(super) const ALL: [Self; 4] = [Self::Well, Self::NoVerdict, Self::NoPods, Self::Silence];
}

fn stuck(why: String) -> Result<(), Broken> {
    Err(Broken { promise: "Convergence", why })
}

impl World {
    /// Lets time pass until nothing is left to do. Answers with the number of passes that this took.
    pub(super) fn comes_to_rest(&self, future: Future) -> Result<usize, Broken> {
        let mut world = self.clone();
        world.calm_down(future)?;
        let mut passes = 0;
        for _ in 0..600 {
            world.surroundings(future)?;
            match world.operators.iter().position(Operator::leads) {
                Some(index) if !world.operators[index].rests() => {
                    passes += 1;
                    world.whole_pass(index)?;
                }
                Some(_) if world.is_held() => world.release(future)?,
                Some(index) if world.operators[index].wake.is_some() => world.pass_time(),
                Some(_) => return world.is_at_rest().map(|()| passes),
                None => world.pass_time(),
            }
        }
        stuck(format!("it is not at rest after {passes} passes, {future:?}: {:#?}", world.state)).map(|()| passes)
    }

    fn calm_down(&mut self, future: Future) -> Result<(), Broken> {
        self.left = Budget::NOTHING;
        if self.late.is_some() {
            self.happen(&Action::Arrive)?;
        }
        for index in 0..2 {
            if self.operators[index].cache.is_some() {
                self.happen(&Action::FindWatch(index))?;
            }
            if self.operators[index].stopped && (index == 0 || self.rules.standby) {
                self.happen(&Action::Resume(index))?;
            }
        }
        let gate = if future == Future::NoVerdict { Verdict::Error } else { Verdict::Pass };
        self.says = Says { gate, errors: Verdict::Pass, bypass: Verdict::Pass, ..self.says.clone() };
        if self.spec.paused || self.spec.replicas == 0 {
            self.spec = Spec { paused: false, replicas: 2, ..self.spec.clone() };
            self.edit(&Action::Replicas(2));
        }
        self.wake();
        Ok(())
    }

    /// What others do at once: Kubernetes, the gateway.
    fn surroundings(&mut self, future: Future) -> Result<(), Broken> {
        let stable = self.state.stable.iter().map(|stable| stable.revision.clone());
        let former = self.state.launch.iter().filter_map(|launch| launch.stable.clone());
        let known: Vec<String> = stable.chain(former).collect();
        let happens = |action: &Action| match action {
            Action::Ready(revision) => future != Future::NoPods || known.iter().any(|known| known == revision),
            Action::Program => future != Future::Silence,
            _ => false,
        };
        self.all_actions().iter().filter(|action| happens(action)).try_for_each(|action| self.happen(action))
    }

    /// A person holds it, or is waited for.
    fn is_held(&self) -> bool {
        let held = |launch: &crate::api::Launch| launch.held && launch.phase != Phase::Complete;
        self.state.pause.is_some() || self.state.launch.as_ref().is_some_and(held)
    }

    fn release(&mut self, future: Future) -> Result<(), Broken> {
        let resumes = future == Future::Well || self.state.pause.is_some();
        self.happen(&Action::Decide(if resumes { DecisionVerb::Resume } else { DecisionVerb::Abort }))
    }

    fn whole_pass(&mut self, index: usize) -> Result<(), Broken> {
        if self.operators[index].pass.is_none() {
            self.begin(index)?;
        }
        while self.operators[index].pass.is_some() {
            self.write(index, false)?;
        }
        Ok(())
    }

    /// As [`World::tick`], but only a wake that was asked for wakes.
    fn pass_time(&mut self) {
        let dirty = self.operators.each_ref().map(|operator| operator.dirty);
        self.tick();
        for (operator, dirty) in self.operators.iter_mut().zip(dirty) {
            operator.dirty = dirty || operator.wake.is_none_or(|at| at <= *NOW);
        }
    }

    fn is_at_rest(&self) -> Result<(), Broken> {
        let stable = self.state.stable.as_ref().map(|stable| stable.revision.as_str());
        let rejected = self.state.rejected.iter().any(|rejected| rejected.revision == self.spec.wanted);
        let running = self.state.running().is_some();
        if running || self.state.pending.is_some() || !(rejected || stable == Some(self.spec.wanted)) {
            return stuck(format!(
                "it rests and {} is neither stable nor rejected: {:#?}",
                self.spec.wanted, self.state
            ));
        }
        if self.decisions.iter().any(|decision| !decision.answered) || !self.state.answers.is_empty() {
            return stuck(format!("people wait for answers: {:?}, {:?}", self.decisions, self.state.answers));
        }
        if self.service.revision.as_deref() != stable || self.service.split.is_some() {
            return stuck(format!("the Service is with {:?} and stable is {stable:?}", *self.service));
        }
        if self.route.as_ref().is_some_and(|route| route.shares != Shares::AtRest) {
            return stuck(format!("the route is not at rest: {:?}", *self.route));
        }
        let sized: Vec<_> = self.deployments.iter().filter(|(_, pods)| pods.size > 0).collect();
        match sized.as_slice() {
            [(revision, pods)] if Some(**revision) == stable && pods.size == self.spec.replicas => Ok(()),
            [] if stable.is_none() => Ok(()),
            other => stuck(format!("stable is {stable:?}, and there are {other:?}")),
        }
    }
}
