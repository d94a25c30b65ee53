"""Lists by which names and places are told from other words: common ones of a few languages, far from complete.

Words only. How they are used is `names` and `addresses`.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FEMALE = _words(
    "Abigail Adele Agnes Aisha Alexandra Alice Alina Alison Amanda Amelia Amy Ana Andrea Angela Anita Anja Anke Ann "
    "Anna Anne Annette Annika Antonia Astrid Audrey Ayse Barbara Beate Beatrice Bettina Birgit Brenda Brigitte "
    "Camille Carla Carmen Carol Caroline Catherine Cecilia Charlotte Chantal Chiara Christa Christiane Christina "
    "Christine Claire Clara Claudia Cristina Cornelia Dagmar Daniela Deborah Denise Diana Donna Dorothea Dorothy "
    "Edith Eileen Elaine Elena Eleanor Elif Elisabeth Elizabeth Elke Ella Ellen Elsa Emilia Emily Emma Erika Esther "
    "Eva Evelyn Fatima Federica Fiona Florence Franziska Frieda Gabriele Gabriella Georgina Gerda Gertrud Gisela "
    "Giulia Gudrun Hanna Hannah Heather Heidi Heike Helen Helena Helga Hildegard Ilse Inge Ingrid Irene Irina Isabel "
    "Isabella Jacqueline Jana Jane Janet Janine Jasmin Jennifer Jessica Joan Joanna Johanna Josephine Judith Julia "
    "Juliane Julie Jutta Karen Karin Karla Katarzyna Katharina Katherine Kathleen Kathrin Katja Katrin Kerstin Kim "
    "Klara Lara Laura Lea Lena Leonie Lina Linda Lisa Louise Lucia Lucy Luise Magdalena Manuela Mara Margaret "
    "Margarete Maria Marianne Marie Marina Marion Marlene Marta Martha Martina Mary Mathilde Megan Melanie Melissa "
    "Merve Mia Michaela Michelle Miriam Monica Monika Nadia Nadine Nancy Natalie Natasha Nathalie Nicole Nina Nora "
    "Olga Olivia Pamela Patricia Paula Petra Pia Priya Rachel Rebecca Regina Renate Rita Rosa Rosemarie Ruth "
    "Sabine Sabrina Sally Samantha Sandra Sara Sarah Sharon Silke Silvia Simone Sofia Sonja Sophia Sophie Stefanie "
    "Stephanie Susan Susanne Svenja Svetlana Sylvia Tamara Tanja Tatjana Teresa Theresa Tina Ulrike Ursula Ute "
    "Valentina Valerie Vanessa Vera Veronika Victoria Waltraud Wendy Yasmin Yvonne Zeynep Zoe"
)
MALE = _words(
    "Aaron Abdul Adam Adrian Ahmed Alan Albert Alberto Alejandro Alessandro Alex Alexander Alfred Ali Andreas Andrew "
    "Andrzej Anthony Antoine Anton Antonio Armin Arne Arthur Axel Ben Benedikt Benjamin Bernard Bernd Bernhard Bjoern "
    "Boris Brandon Brian Bruno Carl Carlos Charles Chris Christian Christoph Christopher Claus Craig Daniel Dario "
    "Dave David Dennis Derek Detlef Diego Dieter Dietmar Dirk Dominik Donald Douglas Eberhard Eckhard Edgar Edward "
    "Emil Emre Enrico Eric Erich Erik Ernst Erwin Eugen Fabian Felix Ferdinand Finn Florian Francesco Francis "
    "Francois Frank Franz Fred Frederick Friedrich Fritz Gareth Gary Geoffrey Georg George Gerald Gerd Gerhard "
    "Gerrit Giovanni Giuseppe Gordon Graham Gregor Gregory Guenter Guido Gustav Günter Günther Hans Harald Harold "
    "Harry Hasan Heiko Heinrich Heinz Helmut Hendrik Henning Henri Henry Herbert Hermann Holger Horst Howard Hubert "
    "Hugo Ian Ingo Ivan Jack Jacob Jakob James Jan Jason Javier Jean Jeffrey Jens Jeremy Jim Joachim Joao Joe Joel "
    "Joerg Johann Johannes John Jonas Jonathan Jorge Jose Josef Joseph Joshua Juan Juergen Julian Julien Jürgen Jörg "
    "Kai Karl Karsten Kay Keith Kenneth Kevin Klaus Konrad Konstantin Kurt Lars Laurent Lawrence Leon Leonard Leo "
    "Liam Lorenz Lorenzo Louis Luca Lucas Ludwig Luigi Luis Lukas Lutz Malcolm Manfred Manuel Marc Marcel Marco "
    "Marcus Mario Markus Martin Marvin Mateusz Matteo Matthew Matthias Maurice Max Maximilian Mehmet Michael Michel "
    "Miguel Mike Mohamed Mohammed Moritz Murat Mustafa Nathan Neil Nicholas Nick Nicolas Niels Niklas Nils Norbert "
    "Norman Olaf Oliver Omar Oscar Oskar Otto Pablo Pascal Patrick Paul Pedro Peter Philip Philipp Phillip Pierre "
    "Piotr Rafael Rainer Ralf Ralph Raymond Reinhard Reiner Rene Ricardo Richard Robert Roberto Robin Roger Roland "
    "Rolf Roman Ronald Rudolf Rupert Ryan Salvatore Samir Samuel Sascha Scott Sean Sebastian Sergei Sergio Siegfried "
    "Simon Stefan Stefano Stephan Stephen Steve Steven Stuart Sven Tarek Ted Terence Theo Theodor Thomas Thorsten "
    "Tilman Tim Timo Timothy Tobias Tom Tomasz Tony Torsten Tyler Udo Ulf Ulrich Uwe Viktor Vincent Vladimir Volker "
    "Walter Werner Wilhelm William Wolfgang Wolfram Yannick Yusuf Zachary"
)
GIVEN = FEMALE | MALE

AMBIGUOUS = _words(
    "Grace Faith Joy Hope May June April Will Mark Bill Rose Lily Daisy Summer Drew Chase Dale Dean Frank Jack Max "
    "Kim Kay Robin Sally Florence Chris Sharon Vera Victoria Regina Martha Mike Charlotte Alexandria Kai Tim Alex "
    "Carol Pia Ali Art Rob Ray Sue Pat Jan"
)
"""Given names that are other things as well: alone they are no finding."""

SURNAMES = _words(
    "Adams Ahmed Albrecht Ali Allen Anderson Arnold Bailey Baker Barnes Bauer Baumann Beck Becker Bell Bennett Berger "
    "Bergmann Bernard Bianchi Böhm Brandt Braun Brooks Brown Bryant Busch Butler Campbell Carter Clark Clarke Cohen "
    "Collins Colombo Cook Cooper Cox Cruz Davies Davis Demir Diaz Dietrich Dubois Dupont Durand Edwards Engel Evans "
    "Fernandez Ferrari Fischer Fisher Flores Foster Fournier Franke Friedrich Fuchs Garcia Gomez Gonzalez Graf Graham "
    "Gray Green Griffin Gross Günther Haas Hahn Hall Hamilton Hansen Harris Harrison Hartmann Hayes Heinrich Henderson "
    "Hernandez Herrmann Hill Hoffmann Hofmann Horn Howard Huber Hughes Hussain Ivanov Jackson Jäger Jansen Jenkins "
    "Jensen Johnson Johnston Jones Jung Kaiser Kaya Keller Kelly Kennedy Khan King Klein Koch Kowalski Köhler König "
    "Kraft Kramer Kraus Krause Kruse Krüger Kuhn Kumar Kühn Lambert Lang Lange Larsen Laurent Lee Lehmann Leroy Lewis "
    "Li Lopez Lorenz Ludwig Maier Marino Martin Martinez Mayer Meier Meyer Miller Mitchell Moore Morales Moreau Moreno "
    "Morgan Morris Murphy Murray Müller Murray Myers Möller Nelson Neumann Nguyen Nielsen Nowak Öztürk Ortiz Otto Owen "
    "Palmer Park Parker Patel Perez Peters Petersen Peterson Petit Pfeiffer Phillips Pohl Popescu Powell Price Ramirez "
    "Ramos Reed Reid Reyes Reynolds Ricci Richard Richardson Richter Rivera Roberts Robertson "
    "Robinson Rodriguez Rogers "
    "Romano Ross Rossi Roth Roux Russell Russo Ryan Sahin Sanchez Sanders Santos Sato Sauer Schäfer Schmid Schmidt "
    "Schmitt Schmitz Schneider Scholz Schreiber Schröder Schubert Schulte Schultz Schulz Schulze Schumacher Schuster "
    "Schwarz Scott Seidel Shah Sharma Shaw Silva Simmons Simon Simpson Singh Smith Sommer Stein "
    "Stevens Stewart Sullivan "
    "Suzuki Taylor Thomas Thompson Thomson Torres Turner Vogel Vogt Wagner Walker Wallace Walter "
    "Wang Ward Watson Weber "
    "Weiss Weiß Werner White Williams Wilson Winkler Winter Wolf Wolff Wong Wood Wright Yilmaz Young Ziegler Zhang "
    "Zimmermann"
)

NOT_NAMES = _words(
    "Street Road Avenue Lane Bank Hospital Hotel University School Insurance Company Office "
    "Department Service Services "
    "Team Support Desk Customer Station Airport Church Court Centre Center Park House Castle Bridge Group Holding Ltd "
    "Limited Inc Corp GmbH AG KG Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April "
    "May June July August September October November December Montag Dienstag Mittwoch Donnerstag Freitag Samstag "
    "Sonntag Januar Februar März Mai Juni Juli Oktober Dezember Versicherung Krankenhaus Klinik Straße Strasse Platz "
    "Kirche Schule Bahnhof Flughafen Abteilung Kundendienst Stadt Amt Gesellschaft Airlines Motors Systems Software "
    "Pro Plus Edition Phone Model Series Award Prize Cup Day Christmas Easter The This That These Those And But Not "
    "Please Thank Thanks Dear Hello Hi Regards Policy Claim Card Order Invoice Account Number Email Phone Address Sir "
    "Madam Der Die Das Und Oder Bitte Danke Sehr Ich Wir Sie Es Mein Meine Unser Ihre Ihr Mit Von Zum Zur Am Im In On "
    "At From To For With By As Is Are Was My Our Your His Her Its We You They He She It If When Where What Which Who "
    "Why How No Yes All Any Some Please Kindly Best Kind Yours Sincerely Internal External Damage "
    "Report Visa Mastercard Mr Mrs Ms Dr Prof Herr Herrn Frau"
)
"""Words that may stand capitalised beside a given name and are no surname."""

PARTICLES = "von|van|de|der|den|del|della|di|da|dos|la|le|al|el|bin|zu|zum|ter|ten|mac|st\\."
"""What stands between given name and surname."""
