//! EmoStream's dataflow: reactions in the log, counted exactly once per room, emoji and window
