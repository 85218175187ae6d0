//! The search: breadth first, each state once, a counterexample as a list of steps.
//!
//! Of a visited state only a hash of 64 bits is kept, with the way to it; whole states live in the frontier alone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::world::{Action, Rules, World};
use crate::launch::promises::Broken;

/// How far to search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// So many states at most.
    pub(super) states: usize,
    /// So long at most.
    pub(super) time: Duration,
    /// From one state of so many it is tried whether the world comes to rest.
    pub(super) rest: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) transitions: usize,
    pub(super) depth: usize,
    /// Every state within the budget of events was visited.
    pub(super) whole: bool,
    pub(super) rests: usize,
    /// The longest way to rest, in passes.
    pub(super) longest: usize,
    pub(super) time: Duration,
    pub(super) counterexample: Option<(Broken, Vec<Action>)>,
}

/// Visits every state that the rules allow, until a promise is broken or a bound is reached.
pub(super) fn search(rules: Rules, bounds: Bounds) -> Found {
    let begun = Instant::now();
    let mut search = Search { ways: HashMap::new(), bounds, transitions: 0, rests: 0, longest: 0 };
    let first = World::new(rules);
    search.ways.insert(hash(&first), None);
    let (mut frontier, mut depth, mut whole) = (vec![first], 0, true);
    let mut counterexample = None;
    'levels: while !frontier.is_empty() {
        let mut next = Vec::new();
        for world in frontier.drain(..) {
            if search.ways.len() >= bounds.states || begun.elapsed() > bounds.time {
                whole = false;
                break 'levels;
            }
            if let Err((broken, last)) = search.visit(&world, &mut next) {
                (whole, counterexample) = (false, Some((broken, search.way(rules, &world, last))));
                break 'levels;
            }
        }
        frontier = next;
        depth += 1;
    }
    let Search { ways, transitions, rests, longest, .. } = search;
    Found { states: ways.len(), transitions, depth, whole, rests, longest, time: begun.elapsed(), counterexample }
}

struct Search {
    /// For each visited state the one it was reached from, and by which of its actions.
    ways: HashMap<u64, Option<(u64, u8)>>,
    bounds: Bounds,
    transitions: usize,
    rests: usize,
    longest: usize,
}

impl Search {
    fn visit(&mut self, world: &World, next: &mut Vec<World>) -> Result<(), (Broken, Option<Action>)> {
        let here = hash(world);
        if here.is_multiple_of(self.bounds.rest) {
            self.rests += 1;
            self.longest = self.longest.max(world.comes_to_rest().map_err(|broken| (broken, None))?);
        }
        for (index, action) in world.actions().into_iter().enumerate() {
            self.transitions += 1;
            let mut then = world.clone();
            then.happen(&action).map_err(|broken| (broken, Some(action)))?;
            let there = hash(&then);
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.ways.entry(there) {
                vacant.insert(Some((here, u8::try_from(index).unwrap())));
                next.push(then);
            }
        }
        Ok(())
    }

    /// The steps that lead to a state, and the last one.
    fn way(&self, rules: Rules, world: &World, last: Option<Action>) -> Vec<Action> {
        let mut indices = Vec::new();
        let mut at = hash(world);
        while let Some(Some((before, index))) = self.ways.get(&at) {
            indices.push(usize::from(*index));
            at = *before;
        }
        let mut world = World::new(rules);
        let mut way = Vec::new();
        for index in indices.into_iter().rev() {
            let action = world.actions().swap_remove(index);
            world.happen(&action).unwrap();
            way.push(action);
        }
        way.into_iter().chain(last).collect()
    }
}

fn hash(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// A counterexample for people: what happened, and what it did to status, route, Service and pods.
pub(super) fn tell(rules: Rules, way: &[Action]) -> String {
    let mut world = World::new(rules);
    let mut told = Vec::new();
    for (number, action) in way.iter().enumerate() {
        let broken = world.happen(action).err().map(|broken| format!("  <- {broken}")).unwrap_or_default();
        told.push(format!("{:>3}. {:<22} {}{broken}", number + 1, format!("{action:?}"), world.line()));
    }
    told.join("\n")
}

impl World {
    fn line(&self) -> String {
        let stable = self.state.stable.as_ref().map_or("-", |stable| &stable.revision);
        let launch = self.state.launch.as_ref().map_or_else(
            || "no launch".to_owned(),
            |it| format!("{} {} {:?} {} {}%", it.id, it.revision, it.phase, it.stage_name, it.weight),
        );
        let route = self.route.as_ref().map_or_else(|| "none".to_owned(), |it| format!("{:?}", it.shares));
        let pods: Vec<_> =
            self.deployments.iter().map(|(name, pods)| format!("{name} {}/{}", pods.ready, pods.size)).collect();
        let both = self.service.split.as_ref().map(|split| format!(" and {} at {}%", split.canary, split.weight));
        let service = self.service.revision.as_deref().unwrap_or("-").to_owned() + &both.unwrap_or_default();
        format!("| {stable} | {launch} | route {route} | service {service} | {}", pods.join(", "))
    }
}
