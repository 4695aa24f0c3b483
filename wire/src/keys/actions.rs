//! The actions a key allows, and which of them others stand for.

use serde::{Serialize, Serializer};

macro_rules! actions {
    ($($variant:ident, $name:literal, $scope:ident, $reads:literal;)*) => {
        /// Something a key may allow. Names with a star stand for several.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the name on the wire is the documentation
        pub enum Action { $($variant),* }

        impl Action {
            /// Every action, in the order in which refusals list them.
            pub const EVERY: &[Action] = &[$(Action::$variant),*];
            /// Their names, in the same order.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Action::$variant => $name),* }
            }

            /// The action of this name.
            pub fn from_name(name: &str) -> Option<Action> {
                match name { $($name => Some(Action::$variant),)* _ => None }
            }

            /// What it means for a key that is limited to some indexes.
            pub const fn scope(self) -> Scope {
                match self { $(Action::$variant => Scope::$scope),* }
            }

            /// Whether `*.get` stands for it too.
            const fn reads(self) -> bool {
                match self { $(Action::$variant => $reads),* }
            }
        }
    };
}

/// What an action means for a key that is limited to some indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It is about everything: such a key can't have it.
    Global,
    /// Its routes show what the key may see, also when they name no index.
    Route,
    /// Its routes name an index.
    Index,
    /// It stands for several.
    Several,
}

actions! {
    All, "*", Several, false;
    Search, "search", Route, true;
    DocumentsAll, "documents.*", Several, false;
    DocumentsAdd, "documents.add", Index, false;
    DocumentsGet, "documents.get", Route, true;
    DocumentsDelete, "documents.delete", Index, false;
    IndexesAll, "indexes.*", Several, false;
    IndexesCreate, "indexes.create", Route, false;
    IndexesGet, "indexes.get", Route, true;
    IndexesUpdate, "indexes.update", Index, false;
    IndexesDelete, "indexes.delete", Index, false;
    IndexesSwap, "indexes.swap", Route, false;
    TasksAll, "tasks.*", Several, false;
    TasksCancel, "tasks.cancel", Route, false;
    TasksDelete, "tasks.delete", Route, false;
    TasksGet, "tasks.get", Route, true;
    SettingsAll, "settings.*", Several, false;
    SettingsGet, "settings.get", Route, true;
    SettingsUpdate, "settings.update", Index, false;
    StatsAll, "stats.*", Route, false;
    StatsGet, "stats.get", Route, true;
    MetricsAll, "metrics.*", Global, false;
    MetricsGet, "metrics.get", Global, true;
    DumpsAll, "dumps.*", Global, false;
    DumpsCreate, "dumps.create", Global, false;
    SnapshotsAll, "snapshots.*", Global, false;
    SnapshotsCreate, "snapshots.create", Global, false;
    Version, "version", Global, true;
    KeysCreate, "keys.create", Global, false;
    // Not among what `*.get` reads: who can read the keys has all that they allow.
    KeysGet, "keys.get", Global, false;
    KeysUpdate, "keys.update", Global, false;
    KeysDelete, "keys.delete", Global, false;
    ExperimentalFeaturesGet, "experimental.get", Global, true;
    ExperimentalFeaturesUpdate, "experimental.update", Global, false;
    Export, "export", Global, true;
    NetworkGet, "network.get", Global, true;
    NetworkUpdate, "network.update", Global, false;
    ChatCompletions, "chatCompletions", Route, false;
    ChatsAll, "chats.*", Global, false;
    ChatsGet, "chats.get", Global, true;
    ChatsDelete, "chats.delete", Global, false;
    ChatsSettingsAll, "chatsSettings.*", Global, false;
    ChatsSettingsGet, "chatsSettings.get", Global, true;
    ChatsSettingsUpdate, "chatsSettings.update", Global, false;
    AllGet, "*.get", Several, false;
    WebhooksGet, "webhooks.get", Global, true;
    WebhooksUpdate, "webhooks.update", Global, false;
    WebhooksDelete, "webhooks.delete", Global, false;
    WebhooksCreate, "webhooks.create", Global, false;
    WebhooksAll, "webhooks.*", Global, false;
    IndexesCompact, "indexes.compact", Index, false;
    FieldsPost, "fields.post", Index, true;
    TasksCompact, "tasks.compact", Global, false;
    DynamicSearchRulesGet, "dynamicSearchRules.get", Global, true;
    DynamicSearchRulesCreate, "dynamicSearchRules.create", Global, false;
    DynamicSearchRulesUpdate, "dynamicSearchRules.update", Global, false;
    DynamicSearchRulesDelete, "dynamicSearchRules.delete", Global, false;
    DynamicSearchRulesAll, "dynamicSearchRules.*", Global, false;
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The actions that a list of them stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActionSet(u64);

// One bit for each.
const _: () = assert!(Action::EVERY.len() <= 64);

impl ActionSet {
    /// What `actions` stand for.
    pub fn of(actions: &[Action]) -> Self {
        let held = |action: &&Action| actions.iter().any(|said| allows(*said, **action));
        let bits = Action::EVERY.iter().filter(held);
        Self(bits.fold(0, |bits, action| bits | Self::bit(*action)))
    }

    /// Whether it holds `action`.
    pub fn holds(self, action: Action) -> bool {
        self.0 & Self::bit(action) != 0
    }

    const fn bit(action: Action) -> u64 {
        1 << action as u8
    }
}

/// Whether `said` stands for `action`.
fn allows(said: Action, action: Action) -> bool {
    match said {
        Action::All => action != Action::AllGet,
        Action::AllGet => action.reads(),
        _ => match said.name().strip_suffix('*') {
            // `documents.*` stands for `documents.get`, and not for itself.
            Some(family) => action != said && action.name().starts_with(family),
            None => said == action,
        },
    }
}
