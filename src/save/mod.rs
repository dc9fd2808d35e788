//! From sources to the store: how each kind of source is read so that what is stored is the state of one moment.

pub mod sqlite;
