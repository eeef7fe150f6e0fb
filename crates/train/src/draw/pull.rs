//! How far to the side a place stands: where its lines go, without overlap.

use std::collections::BTreeMap;

use super::layout::{GAP, LINE_GAP, Link, Place};

/// How often places are pulled.
const PULLS: usize = 300;

/// Moves places to where their lines go, rank by rank, as near as their order and widths allow.
pub(super) fn pull(ranks: &[Vec<usize>], places: &mut [Place], links: &[Link]) {
    let mut links_of = vec![Vec::new(); places.len()];
    for (index, link) in links.iter().enumerate() {
        links_of[link.upper].push(index);
        links_of[link.lower].push(index);
    }
    let mut passing: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, place) in places.iter().enumerate() {
        if let Some(wire) = place.wire {
            passing.entry(wire).or_default().push(index);
        }
    }
    for rank in ranks {
        let wanted = vec![(0.0, 1.0); rank.len()];
        settle(rank, places, &wanted);
    }
    for round in 0..PULLS {
        let mean_x = |places: &[Place], siblings: &Vec<usize>| {
            siblings.iter().map(|&sibling| places[sibling].x).sum::<f64>() / siblings.len() as f64
        };
        let long_lines: BTreeMap<usize, f64> = passing
            .iter()
            .filter(|(_, siblings)| siblings.len() > 1)
            .map(|(&wire, siblings)| (wire, mean_x(places, siblings)))
            .collect();
        for step in 0..ranks.len() {
            let rank = &ranks[if round % 2 == 0 { step } else { ranks.len() - 1 - step }];
            let wanted: Vec<(f64, f64)> = rank
                .iter()
                .map(|&place| wanted_x(place, places, links, &links_of[place], &long_lines))
                .collect();
            settle(rank, places, &wanted);
        }
    }
}

/// Where a place would stand if it were alone, and how much that matters.
fn wanted_x(
    place: usize,
    places: &[Place],
    links: &[Link],
    links_of: &[usize],
    long_lines: &BTreeMap<usize, f64>,
) -> (f64, f64) {
    if let Some(&x) = places[place].wire.and_then(|wire| long_lines.get(&wire)) {
        // A long line wants to be straight more than boxes want to be in the middle.
        return (x, 200.0);
    }
    let (mut sum, mut sum_weights) = (0.0, 0.0);
    for &link in links_of {
        let link = &links[link];
        let (other, x) = if link.lower == place {
            (link.upper, places[link.upper].x + link.upper_offset)
        } else {
            (link.lower, places[link.lower].x - link.upper_offset)
        };
        // What a net does runs from box to box, best straight down where nothing branches; lines that pass, such as
        // labels', must not bend that way.
        let weight = match places[other].wire {
            Some(_) => 0.02,
            None if link.is_only => 6.0,
            None => 1.0,
        };
        sum += weight * x;
        sum_weights += weight;
    }
    if sum_weights == 0.0 {
        return (places[place].x, 0.1);
    }
    (sum / sum_weights, 1.0)
}

/// Puts a rank's places where they want to be, in their order and without overlap, with the least sum of weighted squared
/// distances: isotonic regression by pooling adjacent violators.
fn settle(rank: &[usize], places: &mut [Place], wanted: &[(f64, f64)]) {
    let mut starts = Vec::with_capacity(rank.len());
    let mut start = 0.0;
    for (index, &place) in rank.iter().enumerate() {
        if index > 0 {
            start += distance(&places[rank[index - 1]], &places[place]);
        }
        starts.push(start);
    }
    // Each pool is (mean, weight, how many places), the means rising.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (&(x, weight), start) in wanted.iter().zip(&starts) {
        let mut pool = (x - start, weight, 1);
        while let Some(&(mean, weight, count)) = pools.last()
            && mean >= pool.0
        {
            let sum = weight + pool.1;
            pool = ((mean * weight + pool.0 * pool.1) / sum, sum, count + pool.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let means = pools
        .iter()
        .flat_map(|&(mean, _, count)| std::iter::repeat_n(mean, count));
    for ((&place, start), mean) in rank.iter().zip(&starts).zip(means) {
        places[place].x = mean + start;
    }
}

/// How far apart the middles of two places side by side are at least.
fn distance(left: &Place, right: &Place) -> f64 {
    let gap = if left.wire.is_some() || right.wire.is_some() {
        LINE_GAP
    } else {
        GAP
    };
    left.half_width + gap + right.half_width
}
