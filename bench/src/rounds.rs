//! Runs programs in turn, and compares two runs that follow each other. Other load on the machine changes from minute
//! to minute and affects the CPU time of a program, so runs with a longer time between them cannot be compared.

use std::fmt::Display;

use crate::{
    Result,
    machine::{Machine, MachineUse},
    table::{median, quantile},
};

/// The result of one run of a program.
pub(crate) trait Measured {
    /// Headings of the cells.
    const COLUMNS: &str;

    fn cells(&self) -> String;
}

/// Runs each program once in a round, prints a row for each run, and returns the runs of each program. Every second
/// round is in reverse order, so that load that grows does not always affect the same program.
pub(crate) fn in_turn<P: Display, R: Measured>(
    programs: &[P],
    rounds: usize,
    mut run: impl FnMut(&P) -> Result<R>,
) -> Result<Vec<Vec<R>>> {
    let heading = format!(
        "| round | program | {} | {} |",
        R::COLUMNS,
        MachineUse::COLUMNS
    );
    println!("{heading}");
    println!("|{}", "---|".repeat(heading.matches('|').count() - 1));
    let mut runs: Vec<Vec<R>> = programs.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        let mut order: Vec<(&P, &mut Vec<R>)> = programs.iter().zip(&mut runs).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for (program, runs) in order {
            let before = Machine::now()?;
            let measured = run(program)?;
            let (cells, machine) = (measured.cells(), before.since()?.cells());
            println!("| {round} | {program} | {cells} | {machine} |");
            runs.push(measured);
        }
    }
    println!();
    Ok(runs)
}

/// Computes the ratio of the two figures of each pair. Returns the median, the least and the greatest ratio.
pub(crate) fn ratio<R>(ours: &[R], theirs: &[R], figure: impl Fn(&R) -> f64) -> String {
    let pairs = ours.iter().zip(theirs);
    let mut ratios: Vec<f64> = pairs
        .map(|(ours, theirs)| figure(ours) / figure(theirs))
        .collect();
    let [least, greatest] = [0.0, 1.0].map(|share| quantile(&mut ratios, share));
    format!("{:.2} ({least:.2} to {greatest:.2})", median(ratios))
}

/// For each other program, prints the figure of the last program divided by the figure of that program.
pub(crate) fn print_ratios<P: Display, R>(
    name: &str,
    programs: &[P],
    runs: &[Vec<R>],
    figure: impl Fn(&R) -> f64,
) {
    let ([others @ .., _], [theirs @ .., ours]) = (programs, runs) else {
        return;
    };
    for (other, theirs) in others.iter().zip(theirs) {
        let ratio = ratio(ours, theirs, &figure);
        println!("{name}, of that of {other}, {} pairs: {ratio}", ours.len());
    }
}
