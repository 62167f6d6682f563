//! Who of a group reads what. Members live in this process, so this is all the coordination there is.
//!
//! A partition has one holder. When it is to move, its holder learns that at its next poll, and only
//! then may the new one take it: two members never work on one partition at a time.

use super::{LogIndex, Logs};
use crate::bus::{BusError, Topic};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::sync::Notify;

pub(super) type MemberId = u64;

#[derive(Default)]
pub(super) struct Groups {
    groups: HashMap<String, Group>,
    last_member: MemberId,
}

#[derive(Default)]
struct Group {
    /// In the order they joined.
    members: Vec<Member>,
    /// Who should have a partition, and who has it now.
    wanted: BTreeMap<LogIndex, MemberId>,
    holders: BTreeMap<LogIndex, MemberId>,
}

struct Member {
    id: MemberId,
    topics: Vec<Topic>,
    wake: Arc<Notify>,
}

/// What a member has to give up, or else what it just got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Revoked(Vec<LogIndex>),
    Assigned(Vec<LogIndex>),
}

impl Groups {
    pub(super) fn join(
        &mut self,
        group: &str,
        topics: &[Topic],
        wake: Arc<Notify>,
        logs: &Logs,
    ) -> Result<MemberId, BusError> {
        for topic in topics {
            logs.topic(*topic)?;
        }
        self.last_member += 1;
        let group = self.groups.entry(group.to_owned()).or_default();
        group.members.push(Member {
            id: self.last_member,
            topics: topics.to_vec(),
            wake,
        });
        group.balance(logs);
        Ok(self.last_member)
    }

    /// A member that leaves gives up everything at once: its consumer is gone.
    pub(super) fn leave(&mut self, name: &str, member: MemberId, logs: &Logs) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.members.retain(|other| other.id != member);
        group.holders.retain(|_, holder| *holder != member);
        if group.members.is_empty() {
            self.groups.remove(name);
        } else {
            group.balance(logs);
        }
    }

    /// Moves what can move for this member; asked at each of its polls.
    pub(super) fn change(&mut self, group: &str, member: MemberId) -> Option<Change> {
        let group = self.groups.get_mut(group)?;
        let revoked = group.give_up(member);
        if !revoked.is_empty() {
            group.wake();
            return Some(Change::Revoked(revoked));
        }
        let assigned = group.take(member);
        (!assigned.is_empty()).then_some(Change::Assigned(assigned))
    }

    pub(super) fn holds(&self, group: &str, member: MemberId, log: LogIndex) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| group.holders.get(&log) == Some(&member))
    }
}

impl Group {
    fn give_up(&mut self, member: MemberId) -> Vec<LogIndex> {
        let wanted = &self.wanted;
        let gone = self
            .holders
            .extract_if(.., |log, holder| {
                *holder == member && wanted.get(log) != Some(&member)
            })
            .map(|(log, _)| log);
        gone.collect()
    }

    fn take(&mut self, member: MemberId) -> Vec<LogIndex> {
        let free = self
            .wanted
            .iter()
            .filter(|(log, wanted)| **wanted == member && !self.holders.contains_key(log))
            .map(|(log, _)| *log);
        let taken: Vec<LogIndex> = free.collect();
        self.holders.extend(taken.iter().map(|log| (*log, member)));
        taken
    }

    /// Shares each topic among those who want it, moving as little as possible.
    fn balance(&mut self, logs: &Logs) {
        let mut topics: Vec<Topic> = self.members.iter().flat_map(|m| m.topics.clone()).collect();
        topics.sort_unstable();
        topics.dedup();
        let before = std::mem::take(&mut self.wanted);
        for (turn, topic) in topics.into_iter().enumerate() {
            let mut members: Vec<MemberId> = self
                .members
                .iter()
                .filter(|member| member.topics.contains(&topic))
                .map(|member| member.id)
                .collect();
            // Whoever is first gets the remainder: let it be somebody else for each topic.
            let length = members.len();
            members.rotate_left(turn % length);
            let (first, partitions) = logs.topics[&topic];
            let shared = first..first + partitions as usize;
            self.wanted.extend(share(shared, &members, &before));
        }
        self.wake();
    }

    fn wake(&self) {
        for member in &self.members {
            member.wake.notify_one();
        }
    }
}

/// Deals `logs` evenly; who had one keeps it while that is within its share.
fn share(
    logs: std::ops::Range<LogIndex>,
    members: &[MemberId],
    before: &BTreeMap<LogIndex, MemberId>,
) -> BTreeMap<LogIndex, MemberId> {
    let (each, remainder) = (logs.len() / members.len(), logs.len() % members.len());
    let mut room: Vec<usize> = (0..members.len())
        .map(|rank| each + usize::from(rank < remainder))
        .collect();
    let mut dealt = BTreeMap::new();
    let mut free = Vec::new();
    for log in logs {
        let keeper = before.get(&log).and_then(|had| {
            let rank = members.iter().position(|member| member == had)?;
            (room[rank] > 0).then_some(rank)
        });
        match keeper {
            Some(rank) => {
                room[rank] -= 1;
                dealt.insert(log, members[rank]);
            }
            None => free.push(log),
        }
    }
    for log in free {
        let rank = room.iter().position(|room| *room > 0);
        let rank = rank.expect("the shares add up to the partitions");
        room[rank] -= 1;
        dealt.insert(log, members[rank]);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_move_little() {
        let alone = share(10..14, &[1], &BTreeMap::new());
        assert!(alone.values().all(|member| *member == 1));
        let both = share(10..14, &[1, 2], &alone);
        assert_eq!(both.values().filter(|member| **member == 1).count(), 2);
        let moved = both.iter().filter(|(log, who)| alone[log] != **who);
        assert_eq!(moved.count(), 2);
        let three = share(10..14, &[1, 2, 3], &both);
        assert_eq!(three.values().filter(|member| **member == 3).count(), 1);
    }
}
