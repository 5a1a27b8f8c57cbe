//! The readiness of a process, and the reasons if it is not ready.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The readiness of a process. The process is ready if all its components are ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<State>>>);

#[derive(Debug)]
struct State {
    name: &'static str,
    /// The reason why the component is not ready.
    reason: Option<String>,
    /// The activity of a ready component, for example `standby`. `None` for a component that has only one activity.
    activity: Option<String>,
}

/// A component of a [`Readiness`]. Clones share its state.
#[derive(Debug, Clone)]
pub struct Component {
    readiness: Readiness,
    at: usize,
}

impl Readiness {
    /// Creates a readiness without components. A process without components counts as ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, which is not ready until [`Component::ready`] is called.
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

    /// Returns an error with the reasons of all components that are not ready, if there are any.
    pub fn check(&self) -> Result<(), String> {
        let mut reasons = String::new();
        for state in self.states().iter() {
            if let Some(reason) = &state.reason {
                let separator = if reasons.is_empty() { "" } else { "; " };
                // A write to a string never fails, so the result is ignored.
                let _ = write!(reasons, "{separator}{}: {reason}", state.name);
            }
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// Returns the activities of all components that have one, as `name: activity; …`.
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
    /// Marks the component as ready.
    pub fn ready(&self) {
        self.set(None, None);
    }

    /// Marks the component as ready and sets its activity. For example, a standby is ready, and so is the active
    /// process. Only the activity distinguishes the two.
    pub fn ready_as(&self, activity: impl Into<String>) {
        self.set(None, Some(activity.into()));
    }

    /// Marks the component as not ready, with the reason.
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
    fn the_activity_of_a_ready_component_is_reported() {
        let readiness = Readiness::new();
        let dataflow = readiness.component("dataflow");
        dataflow.ready_as("standby");
        assert_eq!(readiness.check(), Ok(()));
        assert_eq!(readiness.activities(), "dataflow: standby");
        dataflow.not_ready("starting");
        assert_eq!(readiness.activities(), "");
    }
}
