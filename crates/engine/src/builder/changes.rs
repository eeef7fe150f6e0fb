//! Calls that change the layer before them.

use sparknet_proto::{
    caffe::{FillerParameter, LayerParameter, NetStateRule, ParamSpec},
    text,
};

use super::{Mistake, NetBuilder};
use crate::Phase;

impl NetBuilder {
    /// Sets more fields of the layer, as a `.prototxt` writes them within `layer { … }`: values replace what is there,
    /// lists grow, and messages are merged.
    pub fn with(self, fields: &str) -> Self {
        let mut mistake = None;
        let mut builder = self.change("with", |layer| {
            let place = format!("layer '{}'", layer.name());
            mistake = text::merge(layer, &place, fields).err();
        });
        builder.mistakes.extend(mistake.map(Mistake::Text));
        builder
    }

    /// Writes over the bottom.
    pub fn in_place(self) -> Self {
        self.change("in_place", |layer| layer.top.clone_from(&layer.bottom))
    }

    /// Names the tops, where the layer's own name is not right.
    pub fn tops<const N: usize>(self, names: [&str; N]) -> Self {
        self.change("tops", |layer| {
            layer.top = names.iter().map(|name| (*name).to_owned()).collect();
        })
    }

    /// Includes the layer in one phase only.
    pub fn only_in(self, phase: Phase) -> Self {
        self.change("only_in", |layer| {
            let mut rule = NetStateRule::default();
            rule.set_phase(phase.to_proto());
            layer.include.push(rule);
        })
    }

    /// The weight of the first top in the net's loss.
    pub fn loss_weight(self, weight: f32) -> Self {
        self.change("loss_weight", |layer| layer.loss_weight = vec![weight])
    }

    /// The factors on the learning rate, one a parameter blob: weights first, then the bias.
    pub fn lr_mults<const N: usize>(self, factors: [f32; N]) -> Self {
        self.change("lr_mults", |layer| {
            let missing = factors.len().saturating_sub(layer.param.len());
            layer
                .param
                .extend(std::iter::repeat_with(ParamSpec::default).take(missing));
            for (param, factor) in layer.param.iter_mut().zip(factors) {
                param.lr_mult = Some(factor);
            }
        })
    }

    /// How weights are filled: `"xavier"`, `"msra"`; fillers with numbers by [`NetBuilder::with`].
    pub fn weight_filler(self, type_name: &str) -> Self {
        let filler = FillerParameter {
            r#type: Some(type_name.to_owned()),
            ..Default::default()
        };
        let [call, what, wanted] = ["weight_filler", "weights", "a convolution or an inner_product"];
        self.change_part(call, what, wanted, |layer| {
            let place = match (&mut layer.convolution_param, &mut layer.inner_product_param) {
                (Some(param), _) => &mut param.weight_filler,
                (None, Some(param)) => &mut param.weight_filler,
                (None, None) => return false,
            };
            *place = Some(filler);
            true
        })
    }

    /// The distance of two windows.
    pub fn stride(self, stride: u32) -> Self {
        self.change_part("stride", "windows", "a convolution or a pooling", |layer| {
            match (&mut layer.convolution_param, &mut layer.pooling_param) {
                (Some(param), _) => param.stride = vec![stride],
                (None, Some(param)) => param.stride = Some(stride),
                (None, None) => return false,
            }
            true
        })
    }

    /// The zeros around each image.
    pub fn pad(self, pad: u32) -> Self {
        self.change_part("pad", "windows", "a convolution or a pooling", |layer| {
            match (&mut layer.convolution_param, &mut layer.pooling_param) {
                (Some(param), _) => param.pad = vec![pad],
                (None, Some(param)) => param.pad = Some(pad),
                (None, None) => return false,
            }
            true
        })
    }

    fn change(mut self, call: &'static str, change: impl FnOnce(&mut LayerParameter)) -> Self {
        match self.net.layer.last_mut() {
            Some(layer) => change(layer),
            None => self.mistakes.push(Mistake::NoLayer { call }),
        }
        self
    }

    fn change_part(
        self,
        call: &'static str,
        what: &'static str,
        wanted: &'static str,
        change: impl FnOnce(&mut LayerParameter) -> bool,
    ) -> Self {
        let mut misplaced = None;
        let mut builder = self.change(call, |layer| {
            if !change(layer) {
                misplaced = Some((layer.name().to_owned(), layer.r#type().to_owned()));
            }
        });
        builder
            .mistakes
            .extend(misplaced.map(|(layer, type_name)| Mistake::Misplaced {
                call,
                layer,
                type_name,
                what,
                wanted,
            }));
        builder
    }
}
