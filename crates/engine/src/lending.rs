//! Blobs whose memory somebody outside looks at, such as a NumPy array.
//!
//! A pointer into a net is good as long as its net lives and the buffer stays where it is. A net moves a buffer in two
//! cases only: a reshape gives it another length, and a batch is swapped in. For a buffer that is lent, the first leaves
//! the old memory, with its values, to the [`Keeper`] that the borrower holds, and the second copies instead.

use std::{
    mem,
    sync::{Arc, OnceLock, Weak},
};

use crate::{Error, Net, Shape};

/// Holds a lent buffer's memory once the net has gone on with other memory; empty until then.
pub type Keeper = Arc<OnceLock<Vec<f32>>>;

/// A blob's memory: good for reads and writes while `keeper` and the net both live, or once `keeper` is filled, for as
/// long as `keeper` alone lives.
pub struct Lent {
    /// The first value.
    pub first: *mut f32,
    /// The blob's shape.
    pub shape: Shape,
    /// What the borrower has to hold.
    pub keeper: Keeper,
}

/// Who looks at which buffer.
#[derive(Default)]
pub(crate) struct Loans(Vec<Weak<OnceLock<Vec<f32>>>>);

impl Loans {
    pub fn is_lent(&self, buffer: usize) -> bool {
        self.0.get(buffer).is_some_and(|keeper| keeper.strong_count() > 0)
    }

    fn lend(&mut self, buffer: usize, values: &mut Vec<f32>, shape: &Shape) -> Lent {
        assert_eq!(
            values.len(),
            shape.count(),
            "a buffer has the length of its blob's shape"
        );
        if self.0.len() <= buffer {
            self.0.resize(buffer + 1, Weak::new());
        }
        let keeper = self.0[buffer].upgrade().unwrap_or_default();
        self.0[buffer] = Arc::downgrade(&keeper);
        Lent {
            first: values.as_mut_ptr(),
            shape: shape.clone(),
            keeper,
        }
    }

    /// Gives a buffer another length, in new memory if the old one is lent.
    pub fn resize(&mut self, buffer: usize, values: &mut Vec<f32>, len: usize) {
        if values.len() == len {
            return;
        }
        if let Some(keeper) = self.0.get_mut(buffer).map(mem::take).and_then(|weak| weak.upgrade()) {
            let kept = mem::replace(values, vec![0.0; len]);
            // A keeper belongs to one buffer, which forgets it here: it is empty.
            let _ = keeper.set(kept);
        } else {
            values.resize(len, 0.0);
        }
    }
}

impl Net {
    /// Lends the values of a blob, those of [`Net::blob_data_mut`].
    ///
    /// # Errors
    /// A name that no blob has.
    pub fn lend_blob_data(&mut self, name: &str) -> Result<Lent, Error> {
        let blob = self.writable_blob(name)?;
        let (buffer, shape) = (blob.data, blob.shape.clone());
        Ok(self.data_loans.lend(buffer, &mut self.data[buffer], &shape))
    }

    /// Lends the gradient of a blob: where layers work in place, that of the last writer's values if it is an output,
    /// to be set before [`Net::backward`], else that of the first writer's, to be read after it.
    ///
    /// # Errors
    /// A name that no blob has; new shapes of data layers that some layer cannot take.
    pub fn lend_blob_diff(&mut self, name: &str) -> Result<Lent, Error> {
        self.settle_shapes()?;
        self.ensure_diffs();
        let last = self.blob(name)?;
        let blob = if last.readers == 0 {
            last
        } else {
            self.first_blob(name)?
        };
        let (buffer, shape) = (blob.diff, blob.shape.clone());
        Ok(self.diff_loans.lend(buffer, &mut self.diff[buffer], &shape))
    }

    /// The shape of the blob that [`Net::lend_blob_data`] lends.
    ///
    /// # Errors
    /// A name that no blob has.
    pub fn lent_shape(&self, name: &str) -> Result<&Shape, Error> {
        Ok(&self.writable_blob(name)?.shape)
    }

    /// The first value of [`Net::param_arena`], which stays where it is as long as the net lives.
    pub fn param_arena_ptr(&mut self) -> *mut f32 {
        self.param_arena.as_mut_ptr()
    }

    /// The first value of [`Net::gradient_arena`], which stays where it is as long as the net lives.
    pub fn gradient_arena_ptr(&mut self) -> *mut f32 {
        self.gradient_arena.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_buffer_is_left_to_its_borrower() {
        let two = Shape::from([2]);
        let (mut loans, mut values) = (Loans::default(), vec![1.0, 2.0]);
        let (lent, again) = (loans.lend(3, &mut values, &two), loans.lend(3, &mut values, &two));
        assert_eq!(lent.first, again.first);
        loans.resize(3, &mut values, 2);
        assert_eq!(values.as_mut_ptr(), lent.first);
        loans.resize(3, &mut values, 1);
        assert_eq!(values, [0.0]);
        assert_eq!(again.keeper.get().unwrap()[..], [1.0, 2.0]);
        assert_eq!(lent.keeper.get().unwrap().as_ptr(), lent.first.cast_const());
        assert!(!loans.is_lent(3));
        let second = loans.lend(3, &mut values, &Shape::from([1]));
        assert!(loans.is_lent(3) && second.keeper.get().is_none());
        drop(second);
        loans.resize(3, &mut values, 2);
        assert_eq!(values, [0.0, 0.0]);
    }
}
