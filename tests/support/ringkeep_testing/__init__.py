"""What the tests share: guards over the source tree, fakes and oracles. Typed, and checked like the product."""
