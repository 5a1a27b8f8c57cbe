//! The permissions that each role needs on a Kafka cluster with an authorizer. The check at the start of a service,
//! `topics check` and the documentation use this table.

use std::fmt;

use emostream_dataflow::{StreamsTopics, streams_topics};
use emostream_model::Topics;

/// A resource type of Kafka's ACLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResourceType {
    Topic,
    Group,
    TransactionalId,
}

impl ResourceType {
    /// Returns the flag of `kafka-acls.sh` that names a resource of this type.
    fn flag(self) -> &'static str {
        match self {
            Self::Topic => "--topic",
            Self::Group => "--group",
            Self::TransactionalId => "--transactional-id",
        }
    }
}

/// A resource, and the operations on it that a principal must be allowed, with the names that Kafka gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    resource_type: ResourceType,
    resource: String,
    operations: Vec<&'static str>,
}

/// A role: one or more commands that use the same Kafka principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Ingest,
    Dataflow,
    Publisher,
    /// `up --kafka`, which runs the three services above and creates the topics.
    Up,
    Inspect,
    Reset,
    /// `topics create` and `topics check`.
    Topics,
}

impl Role {
    /// All roles, in the order of the documentation.
    pub(crate) const ALL: [Self; 7] = [
        Self::Ingest,
        Self::Dataflow,
        Self::Publisher,
        Self::Up,
        Self::Inspect,
        Self::Reset,
        Self::Topics,
    ];

    /// Returns the topics that the role uses.
    pub(crate) fn topics(self, names: &Topics) -> Vec<String> {
        let permissions = self.permissions(names);
        let topics = permissions
            .into_iter()
            .filter(|it| it.resource_type == ResourceType::Topic);
        topics.map(|it| it.resource).collect()
    }

    /// Returns the permissions that the role needs, one for each resource.
    pub(crate) fn permissions(self, names: &Topics) -> Vec<Permission> {
        let topics = streams_topics(names);
        let mut table = Table::default();
        match self {
            Self::Ingest => {
                table.topics([&topics.source], &["Describe", "DescribeConfigs", "Write"]);
            }
            Self::Dataflow => {
                table.topics([&topics.source], &["Describe", "DescribeConfigs", "Read"]);
                table.topics(topics.results(), &["Describe", "Read", "Write"]);
                // The dataflow reads the retention of final results, since a restart restores totals from them.
                table.topics([&topics.finals], &["DescribeConfigs"]);
                table.topics([&topics.progress], &["Describe", "Read", "Write"]);
                let written = topics.updates.iter().chain([&topics.rejected]);
                table.topics(written, &["Describe", "Write"]);
                table.transactions(&topics);
                // The dataflow commits its offsets to a consumer group only for tools that show its lag, so it also
                // runs without this permission.
                table.add(ResourceType::Group, topics.application_id, &["Read"]);
            }
            Self::Publisher => {
                let read = topics.results().chain(&topics.updates);
                table.topics(read.chain([&topics.progress]), &["Describe", "Read"]);
            }
            Self::Up => {
                let parts = [Self::Ingest, Self::Dataflow, Self::Publisher, Self::Topics];
                for permission in parts.iter().flat_map(|role| role.permissions(names)) {
                    table.add(
                        permission.resource_type,
                        permission.resource,
                        &permission.operations,
                    );
                }
            }
            Self::Inspect => table.topics(&topics.all(), &["Describe", "Read"]),
            Self::Reset => {
                table.topics([&topics.source, &topics.finals], &["Describe", "Read"]);
                table.topics([&topics.progress], &["Describe", "Read", "Write"]);
                table.transactions(&topics);
            }
            Self::Topics => {
                let operations = ["Create", "Describe", "DescribeConfigs"];
                table.topics(&topics.all(), &operations);
            }
        }
        table.rows
    }

    /// Returns the commands that give `User:ROLE` the permissions. Resources with the same operations share a command.
    pub(crate) fn commands(self, names: &Topics, brokers: &str) -> Vec<String> {
        let mut permissions = self.permissions(names);
        let alike = |a: &Permission, b: &Permission| {
            (a.resource_type, &a.operations) == (b.resource_type, &b.operations)
        };
        permissions.sort_by_cached_key(|it| (it.resource_type, it.operations.clone()));
        let groups = permissions.chunk_by(alike);
        let command = |group: &[Permission]| {
            let operations = group[0]
                .operations
                .iter()
                .map(|it| format!(" --operation {it}"));
            let resources = group
                .iter()
                .map(|it| format!(" {} {}", it.resource_type.flag(), it.resource));
            format!(
                "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:{self}{}{}",
                operations.collect::<String>(),
                resources.collect::<String>()
            )
        };
        groups.map(command).collect()
    }
}

/// A list of permissions with one row for each resource.
#[derive(Default)]
struct Table {
    rows: Vec<Permission>,
}

impl Table {
    /// Adds operations to the row of a resource; adds the row if it is missing.
    fn add(&mut self, resource_type: ResourceType, resource: String, operations: &[&'static str]) {
        let known = self.rows.iter_mut();
        let row = known
            .into_iter()
            .find(|it| it.resource_type == resource_type && it.resource == resource);
        match row {
            Some(row) => {
                row.operations.extend(operations);
                row.operations.sort_unstable();
                row.operations.dedup();
            }
            None => self.rows.push(Permission {
                resource_type,
                resource,
                operations: operations.to_vec(),
            }),
        }
    }

    fn topics<'a>(
        &mut self,
        topics: impl IntoIterator<Item = &'a String>,
        operations: &[&'static str],
    ) {
        for topic in topics {
            self.add(ResourceType::Topic, topic.clone(), operations);
        }
    }

    /// Adds the permissions on the transactional id of the dataflow.
    fn transactions(&mut self, topics: &StreamsTopics) {
        self.add(
            ResourceType::TransactionalId,
            topics.application_id.clone(),
            &["Describe", "Write"],
        );
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingest => "ingest",
            Self::Dataflow => "dataflow",
            Self::Publisher => "publisher",
            Self::Up => "up",
            Self::Inspect => "inspect",
            Self::Reset => "reset",
            Self::Topics => "topics",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_with_the_same_operations_share_a_command() {
        let names = Topics::default();
        let commands = Role::Dataflow.commands(&names, "b:9092");
        assert!(
            commands.contains(
                &"kafka-acls.sh --bootstrap-server b:9092 --add --allow-principal User:dataflow \
                  --operation Describe --operation Write \
                  --topic emostream.live --topic emostream.rejected"
                    .to_owned()
            ),
            "{commands:#?}"
        );
        assert_eq!(commands.len(), 6, "{commands:#?}");
    }

    #[test]
    fn up_may_do_what_its_parts_may() {
        let names = Topics::default();
        let up = Role::Up.permissions(&names);
        for part in [Role::Ingest, Role::Dataflow, Role::Publisher, Role::Topics] {
            for Permission {
                resource_type,
                resource,
                operations,
            } in part.permissions(&names)
            {
                let row = up
                    .iter()
                    .find(|it| it.resource_type == resource_type && it.resource == resource);
                let allowed = |it: &&str| row.is_some_and(|row| row.operations.contains(it));
                assert!(operations.iter().all(allowed), "{resource}");
            }
        }
        let resources: Vec<_> = up
            .iter()
            .map(|it| (it.resource_type, &it.resource))
            .collect();
        let mut different = resources.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), resources.len(), "one row a resource");
    }

    #[test]
    fn a_role_uses_the_topics_of_its_permissions() {
        let names = Topics::default();
        assert_eq!(Role::Ingest.topics(&names), [names.reactions()]);
        let mut all = Role::Dataflow.topics(&names);
        all.sort();
        let mut expected = streams_topics(&names).all();
        expected.sort();
        assert_eq!(all, expected);
    }
}
