"""`python -m dataset.refer_index FILE.p`: JSON of pickled references (`dataset.refer.index`)."""

from dataset.refer.index import main

if __name__ == "__main__":
    main()
