//! The table of users: found by name or by key; outdated keys find no user.

use std::collections::HashMap;
use std::sync::Arc;

use super::user::{Care, User, UserKey};

#[derive(Debug, Default)]
pub(super) struct Users {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<Arc<str>, u32>,
    owned: usize,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    user: Option<User>,
}

impl Users {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn owned(&self) -> usize {
        self.owned
    }

    pub(super) fn find(&self, id: &str) -> Option<UserKey> {
        let index = *self.by_id.get(id)?;
        let generation = self.slot(index)?.generation;
        Some(UserKey { index, generation })
    }

    pub(super) fn get(&self, key: UserKey) -> Option<&User> {
        let slot = self.slot(key.index)?;
        slot.user.as_ref().filter(|_| slot.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: UserKey) -> Option<&mut User> {
        let slot = self.slots.get_mut(usize::try_from(key.index).ok()?)?;
        slot.user.as_mut().filter(|_| slot.generation == key.generation)
    }

    pub(super) fn care(&self, key: UserKey) -> Option<&Care> {
        self.get(key)?.care.as_deref()
    }

    pub(super) fn care_mut(&mut self, key: UserKey) -> Option<&mut Care> {
        self.get_mut(key)?.care.as_deref_mut()
    }

    pub(super) fn insert(&mut self, user: User) -> UserKey {
        let id = Arc::clone(&user.id);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let mut generation = 0;
        if let Some(slot) = self.slot_mut(index) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.user = Some(user);
            generation = slot.generation;
        }
        self.by_id.insert(id, index);
        UserKey { index, generation }
    }

    /// This node must have stopped following the user before.
    pub(super) fn remove(&mut self, key: UserKey) -> Option<User> {
        self.get(key)?;
        let user = self.slot_mut(key.index)?.user.take()?;
        self.by_id.remove(&user.id);
        self.free.push(key.index);
        Some(user)
    }

    /// From now on this node follows the user.
    pub(super) fn begin_care(&mut self, key: UserKey) {
        if let Some(user) = self.get_mut(key)
            && user.care.is_none()
        {
            user.care = Some(Box::default());
            self.owned += 1;
        }
    }

    /// This node no longer follows the user: the key changes, so that answers under way find no user.
    pub(super) fn end_care(&mut self, key: UserKey) -> Option<Box<Care>> {
        let care = self.get_mut(key)?.care.take()?;
        self.owned = self.owned.saturating_sub(1);
        if let Some(slot) = self.slot_mut(key.index) {
            slot.generation = slot.generation.wrapping_add(1);
        }
        Some(care)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = UserKey> + '_ {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (UserKey, &User)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = UserKey {
                index: u32::try_from(index).ok()?,
                generation: slot.generation,
            };
            Some((key, slot.user.as_ref()?))
        })
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(index).ok()?)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index).ok()?)
    }
}
