"""A web crawl made on the spot: WARC and WET files of known content, so that every stage can be measured."""
