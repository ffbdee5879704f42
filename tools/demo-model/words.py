"""The words that made-up documents are made of. All written for this project; any likeness to a business is chance."""


def _w(s):
    return s.split()


def _p(s):
    return [x.strip() for x in s.split("|") if x.strip()]


# ---- names of people and firms

CHINESE = _w("AH AIK ANN BAN BEE BENG BOON CEN CHAI CHAN CHANG CHEE CHENG CHEONG CHIN CHONG CHOO CHUAN CHUN CHYE ENG "
             "FATT FONG FOOK FOO GIM GUAN HAI HAN HENG HIN HO HOCK HONG HOON HOR HUAT HUI HUP HWA HWEE JIA JIN JOO "
             "KAH KAM KEAT KEE KEONG KHENG KHIM KIAN KIM KOK KONG KWONG LAI LAM LAU LEE LEONG LIAN LIM LOK LONG LOW "
             "MEI MENG MING MUN NAM NG NGAI ONG PENG PIN POH SAM SENG SEONG SIANG SIEW SIN SING SOON SUN SWEE TAI TAN "
             "TAT TECK TEO THONG TIAM TIAN TONG TUCK WAH WAI WAN WEE WENG WING WONG WOON XIN YANG YAP YEE YEN YEONG "
             "YEW YI YIK YIN YOKE YONG YU YUAN YUEN ZHEN ZHENG ZHI ZHONG LYE KHOO GOH SIM TEH QUAH LOH MAH CHEAH")
MALAY = _w("ABDUL ADAM AHMAD AISYAH ALI AMIN AMIR ANIS ARIF AZIZ AZLAN AZMI BAKAR DANIEL FARAH FAIZ FATIMAH HAFIZ HAKIM "
           "HALIM HAMID HASAN HIDAYAH IBRAHIM IDRIS IMAN ISMAIL JAMAL KAMAL KHALID LATIF MAHMUD MAJID MOHD MUSA NABIL "
           "NADIA NASIR NOOR NUR OMAR OTHMAN RAHIM RAHMAN RASHID RAZAK RIDZUAN ROSLI SALLEH SAMAD SHAH SITI SULAIMAN "
           "SYED TAHIR YUSOF ZAINAL ZAKARIA ZUL HASSAN MANSOR SAAD YAHYA")
INDIAN = _w("ANAND ANIL ARUL BALA CHANDRA DEEPA DEVI GANESH GOPAL KANNAN KRISHNA KUMAR LAKSHMI MANI MEENA MOHAN MURUGAN "
            "NAIDU NAIR PATEL PILLAI PRAKASH PRIYA RAJ RAJAN RAMESH RAVI SAMY SANJAY SELVAM SHANKAR SHARMA SINGH SIVA "
            "SUBRA SURESH THANDAR VASU VELU VIJAY YOGA GUPTA MEHTA IYER REDDY RAO KAPOOR JOSHI")
SURNAMES = _w("Adams Bailey Baker Barnes Bell Bennett Brooks Brown Butler Campbell Carter Clark Collins Cooper Cox Davies Dixon "
              "Edwards Ellis Evans Fisher Foster Gibson Graham Grant Gray Green Hall Harris Harrison Hill Holmes Howard Hughes "
              "Hunt Jackson James Jenkins Johnson Jones Kelly Kennedy King Knight Lawson Lewis Marshall Martin Mason Mills Mitchell "
              "Moore Morgan Morris Murphy Murray Nelson Owen Palmer Parker Pearson Phillips Porter Powell Price Quinn Reed Reynolds "
              "Richards Roberts Robinson Rogers Ross Russell Scott Shaw Simpson Smith Spencer Stevens Stone Taylor Thompson Turner "
              "Walker Ward Watson Webb West White Wilson Wood Wright Young Ahlers Bauer Becker Braun Brandt Dietrich Engel Fischer "
              "Frank Fuchs Graf Haas Hartmann Hoffmann Huber Jung Kaiser Keller Klein Koch Kraus Krüger Lang Lehmann Lorenz Maier "
              "Mayer Meyer Möller Müller Neumann Peters Pohl Richter Roth Sauer Schäfer Schmidt Schneider Scholz Schröder Schulz "
              "Schwarz Seidel Simon Sommer Stein Vogel Voss Wagner Weber Weiss Werner Winkler Wolf Ziegler Bernard Blanc Bonnet "
              "Bouvier Chevalier Colin Dubois Dupont Durand Faure Fontaine Fournier Gautier Girard Lambert Laurent Lefèvre Lemaire "
              "Leroy Marchand Masson Mercier Moreau Morel Perrin Renard Rousseau Roux Vidal Alonso Blanco Cano Castro Cortés Cruz "
              "Delgado Díaz Domínguez Fernández Flores García Gil Gómez González Herrera Ibáñez Jiménez López Lozano Marín Medina "
              "Molina Moreno Muñoz Navarro Núñez Ortega Ortiz Pérez Ramos Reyes Rivera Romero Ruiz Sánchez Santos Serrano Soto "
              "Suárez Torres Vargas Vega Bianchi Bruno Colombo Conti Costa Esposito Ferrari Fontana Gallo Greco Lombardi Mancini "
              "Marino Moretti Ricci Rinaldi Rizzo Romano Rossi Russo Bakker Boer Bos Dekker Dijkstra Hendriks Jansen Jong Kok "
              "Kuiper Mulder Peeters Smit Visser Vries Andersson Berg Hansen Holm Larsen Lindqvist Nilsson Nowak Kowalski Wójcik "
              "Novak Svoboda Horvat Petrov Ivanov Nguyen Tran Pham Suzuki Tanaka Sato Kim Park Chen Wang Zhang Liu")
GIVEN = _w("Adam Alice Amelia Andrew Anna Anton Ben Carla Charles Claire Daniel David Diana Edward Elena Emma Eric Eva Felix "
           "Fiona Frank George Grace Hannah Helen Henry Hugo Ian Irene Ivan Jack Jane Jean Joan John Julia Karen Karl Kate "
           "Laura Leo Liam Linda Louis Lucas Lucy Marco Maria Mark Martha Max Mia Michael Nina Nora Oliver Oscar Paul Peter "
           "Philip Rachel Rosa Ruth Samuel Sara Simon Sofia Stefan Susan Thomas Tim Tom Victor Vera Walter William Zoe")

TRADES_MY = _p("HARDWARE|STATIONERY|STATIONERY & BOOKS|RESTAURANT|CAFE|BAKERY|CONFECTIONERY|CAKE HOUSE|MINI MARKET|SUPERMARKET|"
               "HYPERMARKET|ELECTRICAL|MOTOR|AUTO PARTS|TYRE SERVICE|PHARMACY|CLINIC|TEXTILE|TAILORING|BOUTIQUE|OPTICAL|FURNITURE|"
               "PRINTING|ADVERTISING|FOOD SERVICES|F&B|FOOD INDUSTRIES|BEVERAGES|SEAFOOD|SEAFOOD RESTAURANT|CATERING|KOPITIAM|NOODLE HOUSE|"
               "PETROL STATION|SERVICE STATION|PARKING|COMPUTER|ELECTRONICS|MACHINERY|PAINT|PLUMBING|GIFT SHOP|HOME DECO|"
               "FLORIST|PET SHOP|BOOK CO.|BOOKSTORE|MUSIC CENTRE|SPORTS|TOYS|COSMETICS|HEALTH CARE|HEALTHCARE|BEAUTY|LAUNDRY|GROCERY|CASH & CARRY|"
               "FRESH MARKET|FROZEN FOOD|FRUITS|VEGETABLES|POULTRY|CHICKEN RICE|STEAMBOAT|BAK KUT TEH|DIM SUM|SUSHI|THAI FOOD|"
               "STEAK HOUSE|BISTRO|DESSERT|TEA HOUSE|COFFEE|TRAVEL|LOGISTICS|CONSTRUCTION|ENGINEERING|BUILDING MATERIALS|TIMBER|"
               "GLASS|LIGHTING|PLASTIC|PACKAGING|MARKETING|RETAIL|STORE|DEPARTMENT STORE|EMPORIUM|PAWNSHOP|PHOTO|GALLERY|HOTEL|"
               "RESORT|CAR WASH|WORKSHOP|BATTERY|SPARE PARTS|TELECOMMUNICATION|MOBILE|HANDPHONE CENTRE|ONE STOP CENTRE|LEISURE|"
               "PERSONAL CARE STORES|DISTRIBUTOR|KITCHEN|PIZZA|CHICKENLAND|BURGER|DELIGHT|HOUSE|CORNER|WORLD|CITY|HOLDINGS|"
               "INTERNATIONAL|RESOURCES|VENTURES|INDUSTRIES|SUPPLY|TRADING & SERVICES|GROUP|MANAGEMENT|CONCEPT|CREATION|HERBAL|JEWELLERS")
PREFIX_MY = _p("RESTORAN|KEDAI|KEDAI MAKAN|KEDAI KOPI|KEDAI RUNCIT|PASAR MINI|PASARAYA|PERNIAGAAN|SYARIKAT|KLINIK|FARMASI|BENGKEL|"
               "PUSAT|PERUSAHAAN|PEMBORONG|GERAI|RESTAURANT|CAFE|STESEN MINYAK|KEDAI BUKU|KEDAI KEK|KEDAI PAPAN|KEDAI UBAT|PASARAYA BORONG|"
               "THE|MR.|MY|BIG|NEW|SUPER|ROYAL|GOLDEN|LUCKY|ONE|LITTLE|HAPPY")
SUFFIX_MY = _p("SDN BHD|SDN BHD|SDN BHD|SDN BHD|SDN BHD|SDN. BHD.|SDN. BHD.|SDN.BHD.|SDN BHD.|S/B|SB|BHD|BERHAD|ENTERPRISE|ENTERPRISE|ENTERPRISE|"
               "TRADING|TRADING|TRADING CO.|COMPANY|& CO.|& SONS|CO. (M) SDN BHD|(M) SDN BHD|(M) SDN. BHD.|(MALAYSIA) SDN BHD|"
               "(KL) SDN BHD|MARKETING SDN BHD|HOLDINGS SDN BHD|RESOURCES SDN BHD|ENTERPRISE SDN BHD|TRADING SDN BHD|PLT|HOLDINGS BHD|CO")
BRANDS = _w("ALPHA AMBER ANCHOR APEX APOLLO AQUA ARCTIC ARROW ASPEN ATLAS AURORA AXIS BAMBOO BEACON BLOOM BLUE BOLT BREEZE BRICK BRIGHT "
            "BRIDGE BUTTER CANDY CANYON CAPITAL CASTLE CEDAR CENTRAL CENTURY CHERRY CIRCLE CITRUS CLEAR CLOUD CLOVER COASTAL COBALT COMET "
            "COPPER CORAL COTTAGE CRYSTAL CROWN DAILY DELTA DIAMOND DOLPHIN DRAGON DREAM EAGLE EARTH EAST ECHO EDEN ELITE EMERALD EMPIRE "
            "EVER EXPRESS FALCON FAMILY FARM FIRST FLAME FLORA FOREST FORTUNE FOX FRESH FRONTIER FUSION FUTURE GALAXY GARDEN GATE GEM "
            "GIANT GLOBAL GOLD GRAIN GRAND GRANITE GREEN GROVE HARBOUR HARMONY HARVEST HAVEN HAWK HERITAGE HIGH HILL HONEY HORIZON "
            "ICON IDEAL IMPACT INDIGO INFINITY IRON ISLAND IVORY JADE JASMINE JUNIPER KEY KITE LAKE LAVENDER LEAF LEGEND LEMON LIBERTY "
            "LILY LINK LION LOTUS LUNAR MAGIC MAPLE MARBLE MARINE MASTER MATRIX MAX MEADOW MEGA MERIDIAN METRO MIDAS MINT MODERN MOON "
            "MOUNTAIN NATURE NEST NEXUS NOBLE NORTH NOVA OAK OASIS OCEAN OLIVE OMEGA ONYX OPAL OPTIMA ORANGE ORBIT ORCHID ORIENT ORIGIN "
            "PACIFIC PALM PANDA PARADISE PEAK PEARL PEPPER PHOENIX PILOT PINE PIONEER PLANET PLATINUM POLAR POWER PREMIER PRIMA PRIME "
            "PRO PULSE QUANTUM QUARTZ QUEEN RAIN RAPID RAVEN REGAL RIDGE RIVER ROCK ROSE ROYALE RUBY SAFARI SAGE SAIL SAPPHIRE SATURN "
            "SELECT SHADOW SIGMA SILVER SKY SMART SOLAR SONIC SOUTH SPARK SPEED SPICE SPRING STAR STEEL STERLING STONE STORM SUMMIT SUN "
            "SUNRISE SWIFT TERRA THUNDER TIGER TITAN TOP TOWER TRIDENT TRINITY TROPICAL TRUE TULIP TWIN UNION UNITED UNITY URBAN VALLEY "
            "VALUE VANTAGE VECTOR VELVET VENUS VERTEX VICTORY VIEW VILLAGE VISION VISTA VITAL WAVE WEST WILD WILLOW WIND WINNER WISE "
            "WONDER WOODS YELLOW ZEN ZENITH ZEPHYR ZONE INDAH MAJU JAYA MESRA SELERA RASA SINAR BINTANG MUTIARA PERMATA SERI MEWAH "
            "MURAH SEDAP CAHAYA HARUM KASIH SETIA GEMILANG CEMERLANG BARU UTAMA PERDANA PINTAR BISTARI SAHABAT WARISAN DESA SEJATI")
TRADES_EN = _p("Analytics|Architects|Automotive|Bakery|Books|Brewery|Builders|Catering|Cleaning|Coffee|Components|Construction|Consulting|"
               "Courier|Dairy|Data|Dental|Design|Digital|Distribution|Electric|Electronics|Energy|Engineering|Events|Farms|Films|Fitness|"
               "Flooring|Foods|Freight|Furniture|Gardens|Glass|Graphics|Hardware|Heating|Hotels|Imports|Insurance|Interiors|Kitchens|"
               "Laboratories|Landscaping|Laundry|Legal|Lighting|Logistics|Machinery|Marine|Marketing|Materials|Media|Medical|Metals|Mobility|"
               "Music|Networks|Office Supplies|Optics|Packaging|Paints|Paper|Partners|Pharma|Photography|Plastics|Plumbing|Power|Press|"
               "Printing|Productions|Properties|Publishing|Recruitment|Rentals|Repairs|Research|Robotics|Roofing|Security|Services|Shipping|"
               "Software|Solar|Solutions|Sports|Stationery|Storage|Studio|Supplies|Supply Co|Systems|Technologies|Telecom|Textiles|Tools|Tours|"
               "Trading|Training|Transport|Travel|Tyres|Ventures|Water|Wholesale|Wines|Works")
TRADES_DE = _p("Bau|Bäckerei|Blumen|Bürobedarf|Dachdeckerei|Druckerei|Elektrotechnik|Energie|Fahrzeugtechnik|Gartenbau|Gebäudetechnik|"
               "Getränke|Handels|Haustechnik|Heizungsbau|Holzbau|Ingenieurbüro|Logistik|Maschinenbau|Medien|Metallbau|Möbel|Software|"
               "Spedition|Technik|Verlag|Werkzeuge|Werbung|Weinhandel|Reinigung")
TRADES_FR = _p("Boulangerie|Bâtiment|Conseil|Électricité|Énergie|Fournitures|Imprimerie|Informatique|Jardins|Librairie|Logistique|"
               "Menuiserie|Mobilier|Plomberie|Restauration|Services|Transports|Vins")
TRADES_ES = _p("Alimentación|Asesores|Carpintería|Construcciones|Distribuciones|Electricidad|Ferretería|Imprenta|Informática|"
               "Librería|Logística|Muebles|Papelería|Servicios|Suministros|Talleres|Transportes")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONSETS = _w("b c d f g h j k l m n p r s t v w x y z bl br ch cl cr dr fl fr gl gr kh ng ph pl pr qu sh sl sp st str th tr tw wh zh") + [""]
NUCLEI = _w("a e i o u a e i o u aa ai au ea ee ei eo ia ie io oa oi oo ou ua ue ui y")
CODAS = _w("b ck d g k l ll m n n n ng ng nt p r r rd rt s s sh ss st t t th x z h") + ["", "", "", "", "", ""]

# ---- places

TOWNS_MY = _p("KUALA LUMPUR|SHAH ALAM|PETALING JAYA|JOHOR BAHRU|KLANG|AMPANG|CHERAS|KAJANG|PUCHONG|SUBANG JAYA|SERI KEMBANGAN|"
              "RAWANG|SEREMBAN|NILAI|MELAKA|MUAR|BATU PAHAT|KLUANG|SEGAMAT|PONTIAN|SKUDAI|MASAI|PASIR GUDANG|ULU TIRAM|KULAI|"
              "IPOH|TAIPING|TELUK INTAN|PENANG|BUTTERWORTH|BUKIT MERTAJAM|ALOR SETAR|SUNGAI PETANI|KANGAR|KUANTAN|TEMERLOH|BENTONG|"
              "KOTA BHARU|KUALA TERENGGANU|KEMAMAN|KOTA KINABALU|SANDAKAN|TAWAU|KUCHING|SIBU|MIRI|DENGKIL|CYBERJAYA|PUTRAJAYA|"
              "SEMENYIH|BANGI|SETIA ALAM|KEPONG|SEGAMBUT|SENTUL|SETAPAK|GOMBAK|BATU CAVES|SELAYANG|SUNGAI BULOH|DAMANSARA|BANTING|"
              "PORT DICKSON|BRINCHANG|PENGERANG|KOTA TINGGI|MERSING|BALAKONG|BANGSAR|MONT KIARA|GEORGE TOWN|BAYAN LEPAS")
STATES_MY = _p("SELANGOR|SELANGOR|SELANGOR D.E.|SELANGOR DARUL EHSAN|JOHOR|JOHOR|JOHOR DARUL TAKZIM|PERAK|PENANG|PULAU PINANG|KEDAH|PERLIS|"
               "PAHANG|KELANTAN|TERENGGANU|NEGERI SEMBILAN|N.SEMBILAN|MELAKA|SABAH|SARAWAK|W.P. KUALA LUMPUR|MALAYSIA")
ROADS_MY = _p("DEDAP|HARMONI|PERMAS|KENARI|CEMPAKA|MAWAR|MELATI|ANGGERIK|SETIA INDAH|SETIA GEMILANG|BESAR|SULTAN|TUN RAZAK|IPOH|"
              "GENTING KLANG|REKO|MERU|KAPAR|PUDU|IMBI|BUKIT BINTANG|AMPANG|KUCHAI LAMA|KLANG LAMA|PUTRA|PUTERI|TEMENGGUNG|BENDAHARA|"
              "KEBUDAYAAN|PERDAGANGAN|PERINDUSTRIAN|INDUSTRI|BANTING|WANGSA DELIMA|TAMPOI|BAKRI|KURAU|MANIS|RIANG|DATO ONN|SERI BINTANG|"
              "RADIN BAGUS|TASIK UTAMA|PERTAMA|UTAMA|MUTIARA|NILAM|DELIMA|KASTURI|HANG TUAH|TUN HUSSEIN|BUNGA RAYA|KEMBOJA|PINANG|KANCIL|HARIMAU")
AREAS_MY = _p("TAMAN|TAMAN|TAMAN|BANDAR|BANDAR BARU|DESA|KAMPUNG|PUSAT BANDAR|KAWASAN PERINDUSTRIAN|SEKSYEN|MEDAN|PLAZA|WISMA|TMN|BDR")

# country: towns, street words (before or after), postcode form, currencies, number style
COUNTRIES = {
    "US": dict(towns=_p("Austin, TX|Boston, MA|Chicago, IL|Columbus, OH|Dallas, TX|Denver, CO|Detroit, MI|Houston, TX|Miami, FL|Newark, NJ|"
                        "New York, NY|Oakland, CA|Phoenix, AZ|Portland, OR|San Diego, CA|San Jose, CA|Seattle, WA|Tampa, FL|Tucson, AZ|Salem, OR|"
                        "Boise, ID|Madison, WI|Omaha, NE|Raleigh, NC|Atlanta, GA|Albany, NY|Fresno, CA|Reno, NV"),
               streets="Main|Oak|Maple|Market|Cedar|Washington|Lake|Hill|Park|Elm|Pine|2nd|5th|Mission|Commerce|Industrial|Sunset|River",
               kinds="Street|St|Avenue|Ave|Blvd|Road|Drive|Lane|Parkway", name="USA|United States", cur="USD", num=",.",
               legal="Inc.|Inc|LLC|LLC|Corp.|Corporation|Co.|L.L.C.|& Co.", tax="Sales Tax|Tax", rates=(4.0, 6.25, 7.0, 8.25, 8.875)),
    "GB": dict(towns=_p("London|Leeds|Bristol|Manchester|Glasgow|Edinburgh|Cardiff|Belfast|York|Oxford|Cambridge|Norwich|Exeter|Derby|Bath|"
                        "Reading|Sheffield|Liverpool|Newcastle|Nottingham|Brighton|Coventry"),
               streets="High|Station|Church|Victoria|King|Queen|Mill|Bridge|Castle|Park|Market|London|Albert|Kings|Canal|Wharf|Grove",
               kinds="Street|Road|Lane|Avenue|Close|Way|Court|Place", name="United Kingdom|UK|England", cur="GBP", num=",.",
               legal="Ltd|Ltd|Ltd.|Limited|plc|LLP", tax="VAT", rates=(20.0, 20.0, 5.0)),
    "IE": dict(towns=_p("Dublin 2|Dublin 8|Cork|Galway|Limerick|Waterford|Sligo"), streets="Main|Patrick|Abbey|Bridge|Quay|Church|Mill",
               kinds="Street|Road|Lane|Quay", name="Ireland", cur="EUR", num=",.", legal="Ltd|Limited|DAC|plc", tax="VAT", rates=(23.0, 13.5)),
    "DE": dict(towns=_p("Berlin|Hamburg|München|Köln|Frankfurt|Stuttgart|Leipzig|Dresden|Bremen|Hannover|Nürnberg|Essen|Dortmund|Bonn|Münster|"
                        "Karlsruhe|Mainz|Kassel|Lübeck|Ulm|Jena|Kiel"),
               streets="Haupt|Bahnhof|Garten|Schul|Berliner |Linden|Kirch|Berg|Wald|Goethe|Schiller|Ring|Industrie|Hafen|Mühlen",
               kinds="straße|str.|weg|allee|platz", name="Deutschland|Germany", cur="EUR", num=".,",
               legal="GmbH|GmbH|GmbH|AG|GmbH & Co. KG|KG|e.K.|UG|OHG", tax="MwSt.|USt.|Umsatzsteuer", rates=(19.0, 19.0, 7.0)),
    "AT": dict(towns=_p("Wien|Graz|Linz|Salzburg|Innsbruck|Villach"), streets="Haupt|Mariahilfer |Ring|Linzer |Kirchen|Berg",
               kinds="straße|gasse|platz", name="Österreich|Austria", cur="EUR", num=".,", legal="GmbH|GesmbH|KG|AG", tax="USt.|MwSt.", rates=(20.0, 10.0)),
    "CH": dict(towns=_p("Zürich|Basel|Bern|Luzern|Winterthur|St. Gallen|Genève|Lausanne"), streets="Bahnhof|Haupt|See|Dorf|Post|Kirch",
               kinds="strasse|weg|gasse|platz", name="Schweiz|Switzerland", cur="CHF", num="'.", legal="AG|GmbH|SA|Sàrl", tax="MWST|TVA", rates=(7.7, 8.1)),
    "FR": dict(towns=_p("Paris|Lyon|Marseille|Lille|Nantes|Bordeaux|Toulouse|Rennes|Nice|Strasbourg|Dijon|Angers|Reims|Tours"),
               streets="de la République|Victor Hugo|des Lilas|du Commerce|de la Gare|Pasteur|Jean Jaurès|de Paris|des Acacias|du Moulin",
               kinds="rue|avenue|boulevard|place|quai", name="France", cur="EUR", num=" ,", legal="SARL|SARL|SAS|SA|EURL|SASU", tax="TVA", rates=(20.0, 10.0, 5.5)),
    "ES": dict(towns=_p("Madrid|Barcelona|Valencia|Sevilla|Zaragoza|Málaga|Bilbao|Murcia|Vigo|Granada|Gijón"),
               streets="Mayor|Real|del Sol|de Alcalá|Nueva|San Juan|de la Paz|del Carmen|Colón", kinds="Calle|C/|Avda.|Plaza", name="España|Spain",
               cur="EUR", num=".,", legal="S.L.|S.L.|SL|S.A.|S.L.U.", tax="IVA", rates=(21.0, 10.0)),
    "IT": dict(towns=_p("Milano|Roma|Torino|Napoli|Bologna|Firenze|Genova|Verona|Padova|Trieste"), streets="Roma|Garibaldi|Mazzini|Dante|Verdi|Cavour|Milano",
               kinds="Via|Viale|Corso|Piazza", name="Italia|Italy", cur="EUR", num=".,", legal="S.r.l.|Srl|S.p.A.|S.n.c.", tax="IVA", rates=(22.0, 10.0)),
    "NL": dict(towns=_p("Amsterdam|Rotterdam|Utrecht|Eindhoven|Groningen|Haarlem|Leiden|Delft"), streets="Kerk|Dorps|Molen|School|Haven|Stations|Prinsen",
               kinds="straat|weg|laan|gracht", name="Nederland|Netherlands", cur="EUR", num=".,", legal="B.V.|BV|N.V.|VOF", tax="BTW", rates=(21.0, 9.0)),
    "SG": dict(towns=_p("Singapore"), streets="Orchard|Bukit Timah|Serangoon|Geylang|Toa Payoh|Ang Mo Kio|Jurong East|Tampines|Beach|Victoria|Raffles|Ubi",
               kinds="Road|Street|Avenue|Central|Lane", name="Singapore", cur="SGD", num=",.", legal="Pte Ltd|Pte. Ltd.|PTE LTD|LLP", tax="GST", rates=(7.0, 8.0, 9.0)),
    "AU": dict(towns=_p("Sydney NSW|Melbourne VIC|Brisbane QLD|Perth WA|Adelaide SA|Hobart TAS|Geelong VIC"), streets="George|Collins|Queen|King|Elizabeth|Bourke|Station",
               kinds="Street|Road|Parade|Avenue", name="Australia", cur="AUD", num=",.", legal="Pty Ltd|Pty. Ltd.|Pty Limited", tax="GST", rates=(10.0,)),
    "CA": dict(towns=_p("Toronto, ON|Ottawa, ON|Montréal, QC|Vancouver, BC|Calgary, AB|Halifax, NS|Winnipeg, MB"), streets="King|Queen|Bay|Yonge|Granville|Main|Water",
               kinds="Street|Avenue|Road|Drive", name="Canada", cur="CAD", num=",.", legal="Inc.|Ltd.|Corp.", tax="HST|GST", rates=(5.0, 13.0)),
    "IN": dict(towns=_p("Mumbai|Pune|Chennai|Bengaluru|Hyderabad|New Delhi|Kolkata|Ahmedabad"), streets="MG|Station|Gandhi|Nehru|Temple|Market|Link",
               kinds="Road|Marg|Nagar|Street", name="India", cur="INR", num=",.", legal="Pvt Ltd|Pvt. Ltd.|Private Limited|LLP", tax="GST|IGST", rates=(5.0, 12.0, 18.0)),
    "JP": dict(towns=_p("Tokyo|Osaka|Kyoto|Yokohama|Nagoya|Sapporo"), streets="Ginza|Shibuya|Chuo|Minato|Umeda|Sakura", kinds="-dori|-cho", name="Japan",
               cur="JPY", num=",0", legal="K.K.|Co., Ltd.|Inc.|GK", tax="Consumption Tax|Tax", rates=(8.0, 10.0)),
    "MY": dict(towns=[t.title() for t in TOWNS_MY], streets="|".join(r.title() for r in ROADS_MY), kinds="Jalan|Lorong|Jln|Persiaran", name="Malaysia",
               cur="MYR", num=",.", legal="Sdn Bhd|Sdn. Bhd.|Sdn Bhd|Bhd|Enterprise|Trading|PLT", tax="GST|SST|Service Tax", rates=(6.0, 6.0, 8.0)),
}
SYMBOLS = {"USD": "$", "GBP": "£", "EUR": "€", "CHF": "CHF", "SGD": "S$", "AUD": "A$", "CAD": "C$", "INR": "₹", "JPY": "¥", "MYR": "RM"}

# ---- goods and services

ADJ = _w("BLACK WHITE RED BLUE GREEN SILVER MINI LARGE SMALL JUMBO FRESH FROZEN DRIED SWEET SPICY ORIGINAL CLASSIC PREMIUM SPECIAL SUPER "
         "EXTRA LIGHT HEAVY DUTY SOFT HARD HOT ICED COLD LOCAL IMPORTED PLAIN MIXED ROUND FLAT LONG SHORT DOUBLE SINGLE PLASTIC STEEL WOODEN "
         "COTTON PAPER GLASS RUBBER ORGANIC NATURAL WHOLE SLICED ROAST FRIED STEAMED")
GOODS = _w("APPLE BAG BALL BANANA BATTERY BEAN BEEF BELT BISCUIT BOLT BOOK BOTTLE BOWL BOX BRACKET BREAD BROOM BRUSH BUCKET BULB BUN BURGER BUTTER "
           "CABLE CAKE CALCULATOR CANDLE CAP CARD CARPET CHAIN CHEESE CHICKEN CHILI CHIPS CHOCOLATE CLIP CLOCK CLOTH COFFEE COKE COMB CORN CREAM CUP "
           "CURRY DETERGENT DIARY DOOR DRILL DUCK DUMPLING EGG ENVELOPE ERASER FAN FILE FILTER FISH FLOUR FOLDER FORK FRUIT GINGER GLOVE GLUE GRAPE HAMMER "
           "HANDLE HINGE HONEY HOOK HOSE ICE INK JACKET JAM JUICE KETTLE KEY KNIFE LABEL LADDER LAMP LEMON LIGHT LOCK MANGO MARKER MASK MEAT MEE MILK "
           "MILO MIRROR MOUSE MUFFIN MUG NAIL NAPKIN NOODLE NOTEBOOK NUT OIL ONION ORANGE PAINT PAN PANTS PAPER PASTE PEANUT PEN PENCIL PEPPER PIPE PIZZA "
           "PLATE PLUG POT POTATO POWDER PRAWN PUNCHER RICE RIBBON ROLL ROPE ROTI RULER SALAD SALT SAND SANDWICH SATAY SAUCE SAUSAGE SAW SCISSORS SCREW "
           "SEAL SHAMPOO SHELF SHIRT SHOE SOAP SOCKET SOCKS SOUP SOYA SPONGE SPOON SPRAY STAPLER STICK STRAW SUGAR SWITCH TABLE TAPE TEA TEH TIE TILE TIN "
           "TISSUE TOFU TOMATO TOOL TOOTHPASTE TORCH TOWEL TOY TRAY TUBE TYRE UMBRELLA VALVE VEGETABLE VINEGAR WASHER WATER WHEEL WIPES WIRE WOK YOGURT "
           "KOPI NASI AYAM IKAN SAYUR TELUR UDANG GORENG LEMAK KAMBING SUSU GULA GARAM BERAS MINYAK")
UNITS = _p("500G|1KG|250ML|1L|1.5L|2PCS|10'S|A4|5M|20MM|S/S|PKT|BTL|12X|100GM|350ML|6\"|NO.2|(R)|(L)|XL|2IN1|70GSM|PCS|SET|(HOT)|(COLD)|PEDAS")
SERVICES = _p("Consulting services|Software development|Website hosting|Annual maintenance contract|Project management|Installation of equipment|"
              "Repair and servicing|Office cleaning, monthly|Graphic design, brochure|Printing of flyers|Training day on site|Transport and delivery|"
              "Freight charges|Legal advice|Bookkeeping services|Translation of documents|Photography, half day|Rental of machinery|Catering, 40 persons|"
              "Domain registration|Cloud storage|Support plan|Licence renewal|Travel expenses|Safety inspection|Garden maintenance|Painting work|Electrical work|"
              "Plumbing work|Data analysis|Market research|Editing and proofreading|Security service|Warehouse storage|Advertising campaign|Hourly work|"
              "Monthly subscription|Membership fee|Laboratory analysis|Calibration|Technical drawing|Concept and layout|Audit of accounts|Setup fee")

SLOGANS = _p("WELCOME|THANK YOU|THANK YOU. PLEASE COME AGAIN.|GOODS SOLD ARE NOT RETURNABLE|GOODS SOLD ARE NOT RETURNABLE THANK YOU|"
             "PLEASE COME AGAIN|TERIMA KASIH SILA DATANG LAGI|YOUR ORDER NUMBER IS|TAX INVOICE|CASH SALE|CASH BILL|RECEIPT|SIMPLIFIED TAX INVOICE|"
             "CUSTOMER COPY|MERCHANT COPY|DUPLICATE|REPRINT|POSTED|PAID|ORIGINAL|COPY|ACCOUNT'S COPY|ALWAYS LOW PRICES|EVERYDAY LOW PRICE|TQ FOR SHOPPING WITH US|"
             "FRESH EVERY DAY|SINCE 1988|WE CARE|FOLLOW US ON FACEBOOK|DINE IN|TAKE AWAY|*** REPRINT ***|* GUEST CHECK *|OFFICIAL RECEIPT|INVOICE|"
             "QUALITY YOU CAN TRUST|SELAMAT DATANG|THE TASTE OF HOME|NO EXCHANGE NO REFUND|OPEN 24 HOURS|OPERATED BY|RESIT|BIL TUNAI")
FOOTERS = _p("THANK YOU|THANK YOU. PLEASE COME AGAIN|*** THANK YOU ***|THANK YOU & PLEASE COME AGAIN !!|TERIMA KASIH|TERIMA KASIH SILA DATANG LAGI|"
             "GOODS SOLD ARE NOT RETURNABLE|GOODS SOLD ARE NOT RETURNABLE OR EXCHANGEABLE|GOODS SOLD ARE NOT REFUNDABLE|NO REFUND|HAVE A NICE DAY|"
             "PLEASE KEEP THIS RECEIPT AS PROOF OF PURCHASE|EXCHANGE WITHIN 7 DAYS WITH ORIGINAL RECEIPT|THIS IS A COMPUTER GENERATED RECEIPT|"
             "NO SIGNATURE REQUIRED|E.&O.E.|LIKE US ON FACEBOOK|CUSTOMER CARE LINE : 1300 88 1234|POWERED BY POS SYSTEM|PRICES INCLUSIVE OF GST WHERE APPLICABLE|"
             "BARANG YANG DIJUAL TIDAK BOLEH DIKEMBALIKAN|SEE YOU AGAIN SOON|THANK YOU FOR YOUR PATRONAGE|FOR FEEDBACK CALL US|ALL AMOUNTS ARE IN RM|"
             "WIFI PASSWORD : 12345678|MEMBER POINTS EARNED : 12|CLOSED BILL|REDEEM YOUR POINTS BEFORE EXPIRY|APPROVED|SIGNATURE NOT REQUIRED")

# ---- prose

NOUNS = _w("account agreement answer area board book bridge building car case change child city class club committee company contract cost council country "
           "course customer data day decision department design detail director door effort engine evening event family field film forest friend garden "
           "group harbour health history holiday hotel house idea interest island journey kitchen lake language law letter library life list machine "
           "manager market matter meeting member message model month morning mountain museum music name neighbour network night number offer office opinion "
           "order owner page paper parcel park partner people period person picture plan plant player point policy position price problem process product "
           "programme project proposal question rain reader reason record region report result river road room rule sample school science season section "
           "service side signal station story street student study subject summer supplier support system table talk task teacher team test theory ticket time "
           "topic town trade train travel tree trip unit university user valley value village visit visitor voice wall water way week weather window winter "
           "word work worker world year")
VERBS = _w("accept agree announce ask begin believe bring build buy call carry change check choose close collect compare consider continue cover create decide "
           "deliver describe develop discuss draw end enjoy expect explain find finish follow give grow happen help hold improve include inform install invite join "
           "keep know lead learn leave like listen look lose make measure meet move need offer open order organise pass pay plan play prefer prepare present "
           "produce promise protect prove publish raise reach read receive record reduce refuse remain remember remove repair repeat reply report request return "
           "review save see sell send serve share show sign speak spend start stay stop study suggest support take talk teach test thank think travel try turn "
           "understand use visit wait walk want warn watch win work write")
ADJS = _w("able active annual available basic big black blue broad busy careful central certain clean clear close cold common complete complex correct cultural "
          "current deep different difficult direct early easy empty entire exact fair famous fast final fine foreign formal free fresh full general gentle good "
          "great green happy hard heavy helpful high historic important large late legal light little local long low main major modern national natural new next "
          "nice normal official old open ordinary original past perfect personal plain poor popular possible present private proper public quick quiet rare ready "
          "real recent red regular rich right round safe separate serious sharp short silent similar simple single slow small smooth social special stable strong "
          "sudden suitable sure technical thin total useful usual various warm weak white wide wild young")
LINKS = _p("in|on|with|for|from|about|under|over|after|before|between|during|without|near|against|towards|through|behind")
OPENERS = _p("However,|In addition,|For example,|At first,|Later,|Last year,|In many cases|As a result,|Finally,|Of course,|Meanwhile,|On Monday|Next week|"
             "Since then|Every day|Sometimes|In general,|By contrast,|According to the report,|In our view,|Once again")
LATIN = _w("lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua enim ad minim veniam quis "
           "nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis aute irure in reprehenderit voluptate velit esse cillum eu fugiat nulla")
GERMAN = _w("der die das und ist nicht ein eine mit auf für von dem den des im zu wir Sie haben werden kann nach bei über durch Haus Jahr Zeit Stadt Weg Tag Frage Antwort "
            "Arbeit Leben Kind Schule Garten Wasser heute morgen immer schon wieder neu alt groß klein gut schnell")
FRENCH = _w("le la les un une des et est dans pour avec sur par nous vous ils être avoir faire maison année temps ville jour question réponse travail vie enfant école "
            "jardin eau toujours encore nouveau grand petit bon vite demain aujourd'hui")
SPANISH = _w("el la los una y es en para con por nosotros ustedes ser tener hacer casa año tiempo ciudad día pregunta respuesta trabajo vida niño escuela jardín agua "
             "siempre otra vez nuevo viejo grande pequeño bueno rápido mañana hoy")
