//! Whether a process can do its work now, and if not, why.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The readiness of a process: that of all its components together.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<State>>>);

#[derive(Debug)]
struct State {
    name: &'static str,
    /// Why it is not ready.
    reason: Option<String>,
    /// What it does while it is ready, if it can be ready in several ways.
    activity: Option<String>,
}

/// One component's voice in a [`Readiness`]. Clones speak for the same component.
#[derive(Debug, Clone)]
pub struct Component {
    readiness: Readiness,
    at: usize,
}

impl Readiness {
    /// Without components: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, which is not ready until it says so.
    pub fn component(&self, name: &'static str) -> Component {
        let mut states = self.states();
        states.push(State {
            name,
            reason: Some("starting".to_owned()),
            activity: None,
        });
        Component {
            at: states.len() - 1,
            readiness: self.clone(),
        }
    }

    /// `Err` with every reason why the process is not ready.
    pub fn check(&self) -> Result<(), String> {
        let mut reasons = String::new();
        for state in self.states().iter() {
            if let Some(reason) = &state.reason {
                let separator = if reasons.is_empty() { "" } else { "; " };
                // Writing to a string does not fail.
                let _ = write!(reasons, "{separator}{}: {reason}", state.name);
            }
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// Returns what each ready component does, as `name: activity; …`, for components with several ways to be ready.
    pub fn activities(&self) -> String {
        let states = self.states();
        let activities = states.iter().filter_map(|state| {
            let activity = state.activity.as_ref()?;
            Some(format!("{}: {activity}", state.name))
        });
        activities.collect::<Vec<_>>().join("; ")
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Component {
    /// It can do its work.
    pub fn ready(&self) {
        self.set(None, None);
    }

    /// Marks the component as ready and sets its activity: a standby is as ready as an active process.
    pub fn ready_as(&self, activity: impl Into<String>) {
        self.set(None, Some(activity.into()));
    }

    /// It cannot, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()), None);
    }

    fn set(&self, reason: Option<String>, activity: Option<String>) {
        let state = &mut self.readiness.states()[self.at];
        (state.reason, state.activity) = (reason, activity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_all_its_components_are() {
        let readiness = Readiness::new();
        assert_eq!(readiness.check(), Ok(()));
        let ingest = readiness.component("ingest");
        let publisher = readiness.component("publisher");
        assert_eq!(
            readiness.check(),
            Err("ingest: starting; publisher: starting".to_owned())
        );
        ingest.ready();
        publisher.not_ready("the log does not answer");
        assert_eq!(
            readiness.check(),
            Err("publisher: the log does not answer".to_owned())
        );
        publisher.ready();
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn a_component_that_is_ready_in_several_ways_says_in_which() {
        let readiness = Readiness::new();
        let dataflow = readiness.component("dataflow");
        dataflow.ready_as("standby");
        assert_eq!(readiness.check(), Ok(()));
        assert_eq!(readiness.activities(), "dataflow: standby");
        dataflow.not_ready("starting");
        assert_eq!(readiness.activities(), "");
    }
}
