"""Files of any kind to rows: dictionaries by column name, each with its line. Knows containers, and no examples."""
