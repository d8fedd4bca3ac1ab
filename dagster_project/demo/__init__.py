"""`make demo`: the whole chain on a small catalog that is made here, from photographs that a package ships."""
