//! What a person sees of a deployment on a terminal: the plan before anything moves, a few lines that are drawn again and again
//! while it goes on, and lines that stay above these. What is shown is a pure function of the engine's state; one file draws it.

mod fit;
mod hosts;
mod lines;
mod rates;
mod region;
mod sheet;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub(super) use self::{
    hosts::Shown,
    lines::{Glyphs, clock, host_lines, lines},
    rates::Rates,
    region::{Log, above, clear, drain, draw, is_terminal, keep_panics_above, size, write_objects},
    sheet::Sheet,
    view::View,
};
